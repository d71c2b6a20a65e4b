#!/usr/bin/env bash
# The whole method in minutes, on a fresh machine and without a download of data: makes the environment, then on scikit-learn's
# handwritten digits trains the full-precision base model and, from it, ResNet20 with 1-bit weights (dorefa, SGD) by STE, MultiFC
# and FC-Grad; prints a report and writes it, with the curves, into RESULTS/report; report.html there is for the browser.
#   bash scripts/quickstart.sh
# EPOCHS: of each 1-bit run; BASE_EPOCHS: of the base model; RESULTS: the folder of the results.
set -euo pipefail
if [ $# -gt 0 ]; then
  echo "$0: takes no arguments; EPOCHS, BASE_EPOCHS and RESULTS come from the environment" >&2
  exit 2
fi
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt

RESULTS=${RESULTS:-Results/quickstart}
main() { "$PYTHON" main.py "$@"; }

main pretrain -m ResNet20 -d Digits -lr 0.05 -ad 5 -n "${BASE_EPOCHS:-12}" -bs 64 --results-root "$RESULTS"
for method in STE MultiFC FC-Grad; do
  main train -m ResNet20 -d Digits -q dorefa -o SGD -meta "$method" -ad 10 -n "${EPOCHS:-15}" -bs 32 --results-root "$RESULTS"
done
main report "$RESULTS" --out "$RESULTS/report"
echo
echo "The report as a page for the browser, with the curves: $(cd "$RESULTS/report" && pwd)/report.html"
