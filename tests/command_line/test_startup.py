"""Commands that need no tensors start without torch, and soon."""

import json
import os
import resource
import subprocess
import sys

import pytest
from conftest import PROJECT
from run_folders import CELL, make_run

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


def run(arguments, folder, heavy):
    """Starts main.py in a process of its own; returns its exit code, which of the packages it has imported, and its seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", PROGRAM.format(heavy=heavy), *arguments]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert process.returncode == 0, process.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return *json.loads(process.stdout.splitlines()[-1]), seconds


@pytest.mark.parametrize(
    "arguments",
    [
        ["import"],
        [],
        ["-h"],
        ["train", "-h"],
        ["benchmark", "-h"],
        ["export", "-h"],
        ["tables", "status", "table1"],
        ["tables", "run", "table1", "--dry-run"],
        ["tables", "run", "table1", "--engine", "slurm", "--dry-run"],
    ],
    ids=" ".join,
)
def test_a_command_without_tensors_starts_without_torch(arguments, tmp_path):
    code, imported, seconds = run(arguments, tmp_path, HEAVY)
    assert (code, imported) == (0, [])
    assert seconds < SECONDS


def test_a_table_of_torchvisions_nets_starts_without_torch(tmp_path):
    cell = '{ model = "torchvision:resnet18", quantizer = "dorefa", backward = "STE", optimizer = "SGD" }'
    (tmp_path / "mine.toml").write_text(f'[tables.mine]\ndataset = "CIFAR10"\ncells = [{cell}]\n')
    code, imported, _ = run(["tables", "status", "mine", "--manifest", "mine.toml"], tmp_path, HEAVY)
    assert (code, imported) == (0, [])


def test_a_report_needs_no_torch(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", trial=2)
    make_run(tmp_path / "c", CELL._replace(model="torchvision:resnet18"))
    code, imported, seconds = run(["report", "."], tmp_path, ("torch", "torchvision"))
    assert (code, imported) == (0, [])
    assert seconds < SECONDS
