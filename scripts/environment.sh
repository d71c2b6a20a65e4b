# Sourced by the other scripts: makes the virtual environment $VENV (default .venv) if it is not there, installs the named
# requirement files, and leaves the environment's python in $PYTHON. PYTHON3 names the interpreter to make it with.
VENV=${VENV:-.venv}
PYTHON=$VENV/bin/python
[ -x "$PYTHON" ] || "${PYTHON3:-python3}" -m venv "$VENV"
for requirements in "$@"; do
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements"
done
