# Sourced by the other scripts: makes the virtual environment $VENV (default .venv) if it is not there or not complete, installs the
# named requirement files, and leaves the environment's python in $PYTHON. PYTHON3 names the interpreter to make it with.
VENV=${VENV:-.venv}
PYTHON=$VENV/bin/python
if ! "$PYTHON" -m pip --version > /dev/null 2>&1; then # not there, or its making was interrupted
  if ! "${PYTHON3:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "$0: Python 3.11 or newer is needed; PYTHON3=/path/to/python names another than ${PYTHON3:-python3}" >&2
    exit 2
  fi
  "${PYTHON3:-python3}" -m venv "$VENV"
fi
for requirements in "$@"; do
  "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements"
done
