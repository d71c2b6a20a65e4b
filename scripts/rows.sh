# Sourced by the scripts of the paper's tables and of the evidence. With --dry-run they print the commands and run nothing. From the
# environment:
#   VENV                  virtual environment (.venv, made where it is not there)
#   TRIALS                trials of a row (5)
#   EPOCHS                epochs of a run (100)
#   BASE_EPOCHS           epochs of a base model that has to be made (200)
#   RESULTS               folder of the results (Results)
#   METAQUANT_DATA        folder of the CIFAR sets (data)
#   METAQUANT_PRETRAINED  folder of base models, such as ResNet20-CIFAR10-pretrain.pth; those it lacks are trained
# A script that is typed again skips what is done and goes on where it was cut off. To run a table's rows side by side, on all GPUs
# or on many machines, see main.py tables.
if [ $# -gt 0 ] && [ "$*" != --dry-run ]; then
  echo "$0: the one argument there is: --dry-run" >&2
  exit 2
fi
for number in "${TRIALS:=5}" "${EPOCHS:=100}" "${BASE_EPOCHS:=200}"; do
  if ! [[ $number =~ ^[1-9][0-9]*$ ]]; then
    echo "$0: TRIALS, EPOCHS and BASE_EPOCHS are whole numbers of at least 1, not '$number'" >&2
    exit 2
  fi
done
if [ -n "${METAQUANT_PRETRAINED:-}" ] && ! [ -d "$METAQUANT_PRETRAINED" ]; then
  echo "$0: METAQUANT_PRETRAINED: there is no folder $METAQUANT_PRETRAINED" >&2
  exit 2
fi
RESULTS=${RESULTS:-Results}
DRY_RUN=$([ "${1:-}" = --dry-run ] && echo yes || true)
[ -n "$DRY_RUN" ] || source scripts/environment.sh requirements.txt
FAILED=()

# Runs main.py or, with --dry-run, prints the command. A failure is noted and stops nothing; a signal stops the script.
main() {
  if [ -n "$DRY_RUN" ]; then
    printf 'python main.py'
    printf ' %q' "$@"
    echo
    return
  fi
  local code=0
  "$PYTHON" main.py "$@" || code=$?
  if [ "$code" -gt 128 ]; then exit "$code"; fi
  if [ "$code" -ne 0 ]; then FAILED+=("main.py $*"); fi
}

# find_base MODEL-DATASET FOLDER...: leaves the path of the base model in BASE, where one of the folders has it.
find_base() {
  local folder
  for folder in "${@:2}"; do
    for BASE in "$folder/$1/$1-pretrain.pth" "$folder/$1-pretrain.pth"; do
      if [ -f "$BASE" ]; then return; fi
    done
  done
  return 1
}

# base MODEL DATASET: leaves the base model's path in BASE; trains it where there is none.
base() {
  if find_base "$1-$2" ${METAQUANT_PRETRAINED:+"$METAQUANT_PRETRAINED"} "$RESULTS"; then return; fi
  BASE=$RESULTS/$1-$2/$1-$2-pretrain.pth
  main pretrain -m "$1" -d "$2" -n "$BASE_EPOCHS" --results-root "$RESULTS"
}

# released MODEL DATASET: leaves the released base model's path in BASE; ends the script where METAQUANT_PRETRAINED does not hold it.
released() {
  if [ -n "${METAQUANT_PRETRAINED:-}" ] && find_base "$1-$2" "$METAQUANT_PRETRAINED"; then return; fi
  echo "$0: METAQUANT_PRETRAINED must name the folder of $1-$2-pretrain.pth, the released base model" >&2
  exit 2
}

# row FLAGS...: trains a cell's trials, one after the other.
row() {
  local trial
  for trial in $(seq "$TRIALS"); do
    main train "$@" -n "$EPOCHS" --trial "$trial" --pretrained "$BASE" --results-root "$RESULTS"
  done
}

# part SCRIPT: the rows of another script.
part() {
  local code=0
  PART=yes bash "$1" ${DRY_RUN:+--dry-run} || code=$?
  if [ "$code" -gt 128 ]; then exit "$code"; fi
  if [ "$code" -ne 0 ]; then FAILED+=("$1"); fi
}

# finish [PROGRAM...]: prints the results beside the published ones, or has python run the program; lists what failed, if anything did.
finish() {
  if [ $# -gt 0 ]; then
    if [ -n "$DRY_RUN" ]; then echo "python $*"; else "$PYTHON" "$@"; fi
  elif [ -z "${PART:-}" ]; then
    main report "$RESULTS"
  fi
  if [ "${#FAILED[@]}" -eq 0 ]; then return; fi
  printf 'failed: %s\n' "${FAILED[@]}" >&2
  exit 1
}
