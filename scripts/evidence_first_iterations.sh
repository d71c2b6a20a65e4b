#!/usr/bin/env bash
# The first iterations of each of ResNet20's cells on CIFAR-10, from the released base model, for the comparison with the published
# runs: an epoch that is stopped after ITERATIONS; scripts/evidence_first_epochs.sh goes on with some of them. About half an hour on
# two CPU cores, half of it for LSTMFC. MultiFC with BWN, which is not in the paper, is left out.
#   METAQUANT_PRETRAINED=folder/of/base/models bash scripts/evidence_first_iterations.sh [--dry-run]
# ITERATIONS (100), TRIALS (2), METHODS ("STE FC-Grad MultiFC LSTMFC"), RESULTS (Results-first-epoch), METAQUANT_DATA.
set -euo pipefail
cd "$(dirname "$0")/.."
TRIALS=${TRIALS:-2} EPOCHS=1 RESULTS=${RESULTS:-Results-first-epoch}
source scripts/rows.sh

released ResNet20 CIFAR10
for method in ${METHODS:-STE FC-Grad MultiFC LSTMFC}; do
  start=$([ "$method" = FC-Grad ] && echo --meta-init identity || true) # as the published runs of ResNet20 began
  for quantizer in dorefa BWN; do
    if [ "$quantizer $method" = "BWN MultiFC" ]; then continue; fi
    for optimizer in SGD Adam; do
      row -m ResNet20 -d CIFAR10 --drop-last -q "$quantizer" -o "$optimizer" -meta "$method" $start --stop-after "${ITERATIONS:-100}"
    done
  done
done
finish figs/first_epoch.py "$RESULTS"
