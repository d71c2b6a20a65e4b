#!/usr/bin/env bash
# Whole runs of ResNet20 on CIFAR-10 by dorefa with SGD, from the released base model, for the comparison with the published curves;
# goes on where it was cut off, and figs/convergence.py shows unfinished runs as well. 3 minutes an epoch on two CPU cores.
#   METAQUANT_PRETRAINED=folder/of/base/models bash scripts/evidence_convergence.sh [--dry-run]
# TRIALS (1), METHODS ("MultiFC STE"), EPOCHS (100), RESULTS (Results-convergence), METAQUANT_DATA: see scripts/rows.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
TRIALS=${TRIALS:-1} RESULTS=${RESULTS:-Results-convergence}
source scripts/rows.sh

released ResNet20 CIFAR10
for method in ${METHODS:-MultiFC STE}; do
  start=$([ "$method" = FC-Grad ] && echo --meta-init identity || true) # as the published runs of ResNet20 began
  row -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o SGD -meta "$method" $start
done
finish figs/convergence.py "$RESULTS"
