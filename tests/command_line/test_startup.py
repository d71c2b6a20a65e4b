"""Commands that need no tensors start without torch, and soon."""

import json
import resource
import subprocess
import sys

import pytest
from conftest import PROJECT

HEAVY = ("torch", "torchvision", "scipy", "matplotlib", "pandas", "ray")
SECONDS = 1.5  # of processor time
PROGRAM = """
import json, resource, sys
sys.argv = ["main.py", *sys.argv[1:]]
from main import main
try:
    code = main() if sys.argv[1:] != ["import"] else 0
except SystemExit as stop:
    code = stop.code
print("\\n" + json.dumps([code, [name for name in {heavy} if name in sys.modules]]))
"""


def used():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


@pytest.mark.parametrize(
    "arguments",
    [
        ["import"],
        [],
        ["-h"],
        ["train", "-h"],
        ["benchmark", "-h"],
        ["tables", "status", "table1"],
        ["tables", "run", "table1", "--dry-run"],
        ["tables", "run", "table1", "--engine", "slurm", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_command_without_tensors_starts_without_torch(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    before = used()
    program = PROGRAM.format(heavy=HEAVY)
    process = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    seconds = used() - before
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == [0, []]
    assert seconds < SECONDS
