#!/usr/bin/env bash
# The first iterations of each of ResNet20's cells on CIFAR-10, from the full-precision base model, for the comparison with the
# published runs: an epoch that is stopped after ITERATIONS; scripts/evidence_first_epochs.sh goes on with some of them.
#   METAQUANT_PRETRAINED=folder/of/base/models bash scripts/evidence_first_iterations.sh
# ITERATIONS (100), TRIALS (2), METHODS ("STE FC-Grad MultiFC LSTMFC"), RESULTS (Results-first-epoch), METAQUANT_DATA.
# About 3 hours on two CPU cores, half of them for LSTMFC. MultiFC with BWN was not published and is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt
RESULTS=${RESULTS:-Results-first-epoch}
for trial in $(seq "${TRIALS:-2}"); do
  for method in ${METHODS:-STE FC-Grad MultiFC LSTMFC}; do
    start=$([ "$method" = FC-Grad ] && echo identity || echo random) # as the published runs of ResNet20 began
    for quantizer in dorefa BWN; do
      if [ "$quantizer $method" = "BWN MultiFC" ]; then continue; fi
      for optimizer in SGD Adam; do
        "$PYTHON" main.py train -m ResNet20 -d CIFAR10 --drop-last -q "$quantizer" -o "$optimizer" -meta "$method" \
          $([ "$method" = STE ] || echo --meta-init "$start") -n 1 --stop-after "${ITERATIONS:-100}" --trial "$trial" \
          --pretrained "${METAQUANT_PRETRAINED:?the folder of ResNet20-CIFAR10-pretrain.pth}/ResNet20-CIFAR10-pretrain.pth" --results-root "$RESULTS"
      done
    done
  done
done
"$PYTHON" figs/first_epoch.py "$RESULTS"
