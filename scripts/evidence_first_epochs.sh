#!/usr/bin/env bash
# The first epoch, with evaluation, of ResNet20 on CIFAR-10 by STE, FC-Grad and MultiFC, from the full-precision base model, for the
# comparison with the published runs; goes on where scripts/evidence_first_iterations.sh stopped.
#   METAQUANT_PRETRAINED=folder/of/base/models bash scripts/evidence_first_epochs.sh
# TRIALS (1), RESULTS (Results-first-epoch), METAQUANT_DATA; BATCHES="": with an epoch's 391st batch (RESULTS elsewhere). About 3 minutes a run on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt
RESULTS=${RESULTS:-Results-first-epoch}
for trial in $(seq "${TRIALS:-1}"); do
  for cell in "dorefa SGD" "BWN SGD" "dorefa Adam"; do
    read -r quantizer optimizer <<<"$cell"
    for method in STE "FC-Grad --meta-init identity" MultiFC; do
      "$PYTHON" main.py train -m ResNet20 -d CIFAR10 ${BATCHES---drop-last} -q "$quantizer" -o "$optimizer" -meta $method -n 1 --trial "$trial" \
        --pretrained "${METAQUANT_PRETRAINED:?the folder of ResNet20-CIFAR10-pretrain.pth}/ResNet20-CIFAR10-pretrain.pth" --results-root "$RESULTS"
    done
  done
done
"$PYTHON" figs/first_epoch.py "$RESULTS"
