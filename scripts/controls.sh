#!/usr/bin/env bash
# Does the learned gradient help? Runs the cells of scripts/manifest_controls.toml: STE at three learning rates, then at the best of
# them by validation accuracy STE without clipping, FC-Grad and MultiFC, trained and frozen; and prints the report. Rerun it to go on;
# at SIGTERM or Ctrl-C the runs write a checkpoint.
#   [EPOCHS=3 TRIALS=1] bash scripts/controls.sh [--dry-run] [FLAG ...]
# FLAG ...: flags of `main.py tables run` for all runs, such as --trials-per-device 2 --set precision=bf16
# EPOCHS (100); TRIALS (2): of the cells that matter most for the question, namely STE at its best rate and with SGD-M, FC-Grad,
# MultiFC, FC-Grad frozen at the identity, and MultiFC with phi frozen; the others have one. The rate is the best of the first trials,
# so that a rerun chooses the same one. If the report later names another rate as best, because the second trial at this rate was much
# worse, run more trials at both rates. RESULTS (Results-controls), METAQUANT_DATA, METAQUANT_PRETRAINED: see scripts/rows.sh; without
# a base model one is trained, which has not seen the validation images.
# QUANTIZERS ("dorefa BWN"). MANIFEST, MODEL, DATASET: another manifest with the table `controls`, for one net and data set;
# VALIDATION (5000): its number of validation images, which a base model that has to be trained must not see.
# Then `python figs/controls.py Results-controls` writes epochs, table and curves into figs/controls.
set -euo pipefail
cd "$(dirname "$0")/.."
FLAGS=() DRY=
for argument in "$@"; do
  if [ "$argument" = --dry-run ]; then DRY=--dry-run; else FLAGS+=("$argument"); fi
done
set -- $DRY
TRIALS=${TRIALS:-2} RESULTS=${RESULTS:-Results-controls}
MANIFEST=${MANIFEST:-scripts/manifest_controls.toml} MODEL=${MODEL:-ResNet20} DATASET=${DATASET:-CIFAR10} VALIDATION=${VALIDATION:-5000}
source scripts/rows.sh
read -ra QUANTIZERS <<<"${QUANTIZERS:-dorefa BWN}"

# controls TRIALS FLAGS...: so many trials of the runs that the flags of main.py tables select.
controls() {
  local trials=$1
  shift
  set -- --manifest "$MANIFEST" -n "$EPOCHS" --results-root "$RESULTS" --trials "$trials" "$@"
  runs controls "$@" ${FLAGS[@]+"${FLAGS[@]}"}
}

# best_rate QUANTIZER: leaves in RATE the learning rate at which STE's first trial has the highest validation accuracy.
best_rate() {
  if [ -n "$DRY_RUN" ]; then
    echo "# RATE: python figs/controls.py $RESULTS --best-rate $1"
    RATE=RATE
  else
    RATE=$("$PYTHON" figs/controls.py "$RESULTS" --best-rate "$1")
  fi
}

# phi_of QUANTIZER: leaves in PHI the folder of the first trial of MultiFC at the best rate.
phi_of() {
  if [ -n "$DRY_RUN" ]; then
    echo "# RUN_DIR: python figs/controls.py $RESULTS --phi-of $1 $RATE"
    PHI=RUN_DIR
  else
    PHI=$("$PYTHON" figs/controls.py "$RESULTS" --phi-of "$1" "$RATE")
  fi
}

# at_best QUANTIZER: the rows at its best rate; phi of the trained MultiFC is needed by the frozen one.
at_best() {
  best_rate "$1" || {
    FAILED+=("figs/controls.py $RESULTS --best-rate $1")
    return 0
  }
  local q=(-q "$1") rate=(--set "init-lr=$RATE")
  controls "$TRIALS" "${q[@]}" -meta STE -o SGD "${rate[@]}" "exp-spec=grid-init-lr-$RATE" || true # more trials of the sweep's run
  controls "$TRIALS" "${q[@]}" -meta FC-Grad "${rate[@]}" "exp-spec=alpha-$RATE" || true
  if controls "$TRIALS" "${q[@]}" -meta MultiFC "${rate[@]}" "exp-spec=alpha-$RATE"; then
    if phi_of "$1"; then
      controls "$TRIALS" "${q[@]}" -meta MultiFC "${rate[@]}" "phi=$PHI" freeze-phi-after=0 "exp-spec=phi-frozen-$RATE" || true
    else
      FAILED+=("figs/controls.py $RESULTS --phi-of $1 $RATE")
    fi
  fi
  rate+=(freeze-phi-after=0)
  controls "$TRIALS" "${q[@]}" -meta FC-Grad "${rate[@]}" meta-init=identity "exp-spec=identity-frozen-$RATE" || true
  controls 1 "${q[@]}" -meta FC-Grad "${rate[@]}" "exp-spec=random-frozen-$RATE" || true
  controls 1 "${q[@]}" -meta STE-identity --set "init-lr=$RATE" "exp-spec=alpha-$RATE" || true
}

base "$MODEL" "$DATASET" --validation "$VALIDATION"
if [ -z "$DRY_RUN" ]; then trap stop TERM INT; fi
controls 1 -q "${QUANTIZERS[@]}" -meta STE -o SGD --grid init-lr=1e-3,1e-2,1e-1 || true # a rate that fails is not the best one
for quantizer in "${QUANTIZERS[@]}"; do
  if [ -z "$STOPPED" ]; then at_best "$quantizer"; fi
done
controls "$TRIALS" -q "${QUANTIZERS[@]}" -meta STE -o SGD-M --set init-lr=1e-2 exp-spec=alpha-0.01 || true
finish
