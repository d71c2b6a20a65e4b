#!/usr/bin/env bash
# Makes the environment, adds the development requirements and runs the linter and the tests.
#   bash scripts/test.sh [pytest arguments]
# The tests that need CIFAR or the released base models look in METAQUANT_DATA and METAQUANT_PRETRAINED and are skipped without.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt requirements-dev.txt
"$PYTHON" -m pip install --quiet --disable-pip-version-check -r requirements-ray.txt ||
  echo "Ray is not to be had for this Python: its tests are skipped" >&2
"$PYTHON" -m ruff check .
"$PYTHON" -m pytest -m "not slow" "$@"
