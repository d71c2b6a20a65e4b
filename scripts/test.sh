#!/usr/bin/env bash
# Makes the environment, adds the development requirements and runs the linter and the tests: a process per core, at most 8, of
# one thread each.
#   bash scripts/test.sh [pytest arguments]     (-n 0: one after the other)
# The tests that need CIFAR or the released base models look in METAQUANT_DATA and METAQUANT_PRETRAINED and are skipped without.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt requirements-dev.txt
for optional in requirements-ray.txt requirements-export.txt; do
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$optional" ||
    echo "$optional cannot be installed for this Python: its tests are skipped" >&2
done
"$PYTHON" -m ruff check .
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
"$PYTHON" -m pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal "$@"
