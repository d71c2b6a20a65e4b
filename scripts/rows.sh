# Sourced by the scripts of the paper's tables and of the evidence. With --dry-run they print the commands and run nothing. From the
# environment:
#   VENV                  virtual environment (.venv, made where it is not there)
#   TRIALS                trials of a row (5)
#   EPOCHS                epochs of a run (100)
#   BASE_EPOCHS           epochs of a base model that has to be made (200)
#   RESULTS               folder of the results (Results)
#   METAQUANT_DATA        folder of the CIFAR sets (data)
#   METAQUANT_PRETRAINED  folder of base models, such as ResNet20-CIFAR10-pretrain.pth; those it lacks are trained
# Rerun a script to skip finished runs and resume interrupted ones. To run a table's rows side by side, on all GPUs
# or on many machines, see main.py tables.
if [ $# -gt 0 ] && [ "$*" != --dry-run ]; then
  echo "$0: the only argument is --dry-run" >&2
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
FAILED=()

# Makes the environment where it is not there yet, and leaves its interpreter in PYTHON.
environment() {
  if [ -n "${READY:-}" ]; then return; fi
  source scripts/environment.sh requirements.txt
  READY=yes
}

# Runs main.py or, with --dry-run, prints the command. A failure is noted and stops nothing; a signal stops the script.
main() {
  if [ -n "$DRY_RUN" ]; then
    printf 'python main.py'
    printf ' %q' "$@"
    echo
    return
  fi
  environment
  local code=0
  "$PYTHON" main.py "$@" || code=$?
  if [ "$code" -gt 128 ]; then exit "$code"; fi
  if [ "$code" -ne 0 ]; then FAILED+=("main.py $*"); fi
}

# found MODEL-DATASET: leaves the base model's path in BASE, where METAQUANT_PRETRAINED has it.
found() {
  for BASE in "${METAQUANT_PRETRAINED:-}/$1/$1-pretrain.pth" "${METAQUANT_PRETRAINED:-}/$1-pretrain.pth"; do
    if [ -n "${METAQUANT_PRETRAINED:-}" ] && [ -f "$BASE" ]; then return; fi
  done
  return 1
}

# base MODEL DATASET [FLAG ...]: leaves the base model's path in BASE; trains it, with the flags, where there is none.
base() {
  if found "$1-$2"; then return; fi
  BASE=$RESULTS/$1-$2/$1-$2-pretrain.pth
  if [ -f "$BASE" ]; then return; fi
  main pretrain -m "$1" -d "$2" -n "$BASE_EPOCHS" --results-root "$RESULTS" "${@:3}"
}

# released MODEL DATASET: leaves the released base model's path in BASE; ends the script where METAQUANT_PRETRAINED does not hold it.
released() {
  if found "$1-$2"; then return; fi
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

STOPPED= CHILD=

# For `trap stop TERM INT`: has the runs of `runs` write their checkpoints; no more are begun.
stop() {
  STOPPED=yes
  if [ -n "$CHILD" ]; then kill -TERM "$CHILD" 2>/dev/null || true; fi
}

# runs FLAGS...: carries out the runs that main.py tables selects; waits for their checkpoints when it is stopped. Returns 1 where
# one of them failed, or the script was stopped.
runs() {
  if [ -n "$STOPPED" ]; then return 1; fi
  if [ -n "$DRY_RUN" ]; then
    main tables run "$@"
    return
  fi
  environment
  if [ -n "$STOPPED" ]; then return 1; fi
  "$PYTHON" main.py tables run "$@" &
  CHILD=$!
  local code=0
  wait "$CHILD" || code=$?
  while kill -0 "$CHILD" 2>/dev/null; do # a signal ended the wait, not the runs
    code=0
    wait "$CHILD" || code=$?
  done
  CHILD=
  if [ -n "$STOPPED" ]; then return 1; fi
  if [ "$code" -ne 0 ]; then
    FAILED+=("main.py tables run $*")
    return 1
  fi
}

# part SCRIPT: the rows of another script.
part() {
  local code=0
  PART=yes bash "$1" ${DRY_RUN:+--dry-run} || code=$?
  if [ "$code" -gt 128 ]; then exit "$code"; fi
  if [ "$code" -ne 0 ]; then FAILED+=("$1"); fi
}

# finish [PROGRAM...]: prints the results beside the published ones, or has python run the program; lists what failed, if anything
# did. A script that was stopped runs the program, too, prints no results, and ends with exit code 143.
finish() {
  if [ $# -gt 0 ]; then
    if [ -n "$DRY_RUN" ]; then
      echo "python $*"
    else
      environment
      "$PYTHON" "$@"
    fi
  elif [ -z "${PART:-}$STOPPED" ]; then
    main report "$RESULTS"
  fi
  if [ -n "$STOPPED" ]; then
    echo "$0: stopped; rerun the same command to go on" >&2
    exit 143
  fi
  if [ "${#FAILED[@]}" -eq 0 ]; then return; fi
  printf 'failed: %s\n' "${FAILED[@]}" >&2
  exit 1
}
