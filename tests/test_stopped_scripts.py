"""The scripts that are stopped by a signal while main.py tables works: they wait for it, say so, and exit with 143."""

import os
import signal
import subprocess

import pytest
from conftest import PROJECT, until

PYTHON = """#!/bin/bash
echo "$@" >>{noted}
if [ "$2" = tables ]; then
  trap 'echo checkpoint >>{noted}; kill $!; exit 143' TERM
  sleep 20 &
  touch {begun}
  wait
fi
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("script", "last"), [("evidence_table1", "figs/convergence.py {root}"), ("controls", "checkpoint")])
def test_a_stopped_script_begins_nothing_more_and_exits_with_143(script, last, number, tmp_path):
    """What the evidence has so far is still collected."""
    python, noted = tmp_path / "venv" / "bin" / "python", tmp_path / "noted"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(noted=noted, begun=tmp_path / "begun"))
    python.chmod(0o755)
    (tmp_path / "ResNet20-CIFAR10-pretrain.pth").touch()
    environment = {"VENV": tmp_path / "venv", "METAQUANT_PRETRAINED": tmp_path, "RESULTS": tmp_path / "R"}
    command = ["bash", PROJECT / "scripts" / f"{script}.sh"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    until((tmp_path / "begun").exists)
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 143
    assert error == f"{PROJECT}/scripts/{script}.sh: stopped; rerun the same command to go on\n"
    lines = noted.read_text().splitlines()
    assert len([line for line in lines if line.startswith("main.py tables")]) == 1
    assert "checkpoint" in lines
    assert lines[-1] == last.format(root=tmp_path / "R")
