#!/usr/bin/env bash
# Whole runs of ResNet20 on CIFAR-10 by dorefa with SGD, from the full-precision base model, for the comparison with the published
# curves; goes on where it was cut off, and figs/convergence.py shows unfinished runs as well.
#   METAQUANT_PRETRAINED=folder/of/base/models bash scripts/evidence_convergence.sh
# TRIALS (1), METHODS ("MultiFC STE"), RESULTS (Results-convergence), METAQUANT_DATA. 3 minutes an epoch on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt
RESULTS=${RESULTS:-Results-convergence}
for trial in $(seq "${TRIALS:-1}"); do
  for method in ${METHODS:-MultiFC STE}; do
    "$PYTHON" main.py train -m ResNet20 -d CIFAR10 --drop-last -q dorefa -o SGD -meta "$method" --trial "$trial" \
      $([ "$method" = FC-Grad ] && echo --meta-init identity) --results-root "$RESULTS" \
      --pretrained "${METAQUANT_PRETRAINED:?the folder of ResNet20-CIFAR10-pretrain.pth}/ResNet20-CIFAR10-pretrain.pth"
  done
done
"$PYTHON" figs/convergence.py "$RESULTS"
