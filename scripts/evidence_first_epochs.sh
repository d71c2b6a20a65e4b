#!/usr/bin/env bash
# The first epoch, with evaluation, of ResNet20 on CIFAR-10 by STE, FC-Grad and MultiFC, from the released base model, for the
# comparison with the published runs; goes on where scripts/evidence_first_iterations.sh stopped. About 3 minutes a run on two CPU
# cores.
#   METAQUANT_PRETRAINED=folder/of/base/models bash scripts/evidence_first_epochs.sh [--dry-run]
# TRIALS (1), RESULTS (Results-first-epoch), METAQUANT_DATA. Into other RESULTS: BATCHES="", with the 391st batch of an epoch;
# PRECISION=bf16, which takes about three quarters of an hour a run on a processor without bf16 instructions, else 2 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
TRIALS=${TRIALS:-1} EPOCHS=1 RESULTS=${RESULTS:-Results-first-epoch}
source scripts/rows.sh

released ResNet20 CIFAR10
for cell in "dorefa SGD" "BWN SGD" "dorefa Adam"; do
  read -r quantizer optimizer <<<"$cell"
  for method in STE "FC-Grad --meta-init identity" MultiFC; do
    row -m ResNet20 -d CIFAR10 ${BATCHES---drop-last} ${PRECISION:+--precision $PRECISION} -q "$quantizer" -o "$optimizer" -meta $method
  done
done
finish figs/first_epoch.py "$RESULTS"
