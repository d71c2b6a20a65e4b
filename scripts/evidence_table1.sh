#!/usr/bin/env bash
# Whole runs of Table 1's ResNet20 cells, from the released base model, by the protocol of the published logs: two at once, one thread
# each, at low priority. Rerun it to go on; at SIGTERM or Ctrl-C the runs write a checkpoint, and their epochs so far are collected.
# Two runs take 4.5 to 6 hours on two cores with AVX2, if nothing else runs; those of LSTMFC 2.6 times as long.
#   METAQUANT_PRETRAINED=folder/of/base/models bash scripts/evidence_table1.sh [--dry-run | --collect]
# --collect only writes the epochs that the runs have so far into figs/convergence, and draws its picture.
# RESULTS (Results-table1), METAQUANT_DATA: see scripts/rows.sh. A run is finished by the commit that began it: keep a clone for it.
set -euo pipefail
cd "$(dirname "$0")/.."
COLLECT=$([ "${1:-}" = --collect ] && echo yes || true)
if [ -n "$COLLECT" ]; then shift; fi
RESULTS=${RESULTS:-Results-table1}
source scripts/rows.sh
released ResNet20 CIFAR10

# cells SELECTION...: carries out the runs that main.py tables selects.
cells() {
  if [ -n "$COLLECT" ]; then return; fi
  set -- "$@" --pretrained-root "$METAQUANT_PRETRAINED" --results-root "$RESULTS" --trials-per-device 2 --cpus-per-run 1
  runs "$@" || true
}

if [ -z "$DRY_RUN$COLLECT" ]; then
  renice -n 15 -p $$ >/dev/null
  trap stop TERM INT
fi
cells evidence --trial 1
cells evidence -o SGD --trial 2
cells table1 -m ResNet20 -meta LSTMFC --trial 1
finish figs/convergence.py "$RESULTS"
