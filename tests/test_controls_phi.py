"""scripts/controls.sh gives the frozen MultiFC the phi of the trained one, whatever its folder is called."""

import os
import subprocess

import pytest
from conftest import PROJECT
from run_folders import DIGITS, make_run, settings_of

from figs import controls
from figs.convergence import trials_below

LEARNED = DIGITS._replace(backward="MultiFC", quantizer="BWN")
FOLDER = "Meta-MultiFC-Nonlinear-None-hidden-size-100-nfc-3-BWN-SGD-1bits-lr-30-{}-trial-1"


PYTHON = """#!/bin/bash
case $* in
  "main.py "*) echo "$@" >>{noted} ;;
  "figs/controls.py {root} --best-rate BWN") echo 0.01 ;;
  "figs/controls.py {root} --phi-of BWN 0.01") {there} && echo a/run-keep-conv1 ;;
esac
"""


def trained(root, name, trial=1, cell=LEARNED, state="done", **changes):
    """The folder of a run of MultiFC at the learning rate 0.01."""
    return make_run(root / name, cell, trial, settings=settings_of(cell, trial, **{"init_lr": 0.01, **changes}), state=state)


def test_the_folder_is_found_by_the_record(tmp_path):
    run = trained(tmp_path, FOLDER.format("alpha-0.01-keep-conv1"), keep=["conv1"])
    trained(tmp_path, FOLDER.format("alpha-0.1"), init_lr=0.1)
    trained(tmp_path, "second", trial=2)
    trained(tmp_path, "other-quantizer", cell=LEARNED._replace(quantizer="dorefa"))
    trained(tmp_path, "STE", cell=LEARNED._replace(backward="STE"))
    trained(tmp_path, "unfinished", state="running")
    trained(tmp_path, "frozen", phi=str(run), freeze_phi_after=0)
    trials = trials_below([tmp_path])
    assert controls.phi_of(trials, "BWN", 0.01) == run
    with pytest.raises(SystemExit, match=r"there are 0 first trials of MultiFC with BWN and init_lr 0.5, not one"):
        controls.phi_of(trials, "BWN", 0.5)
    trained(tmp_path, "again", batch_size=7)
    with pytest.raises(SystemExit, match=r"there are 2 first trials of MultiFC with BWN and init_lr 0.01, not one\n"):
        controls.phi_of(trials_below([tmp_path]), "BWN", 0.01)


@pytest.mark.parametrize("there", [True, False])
def test_the_script_begins_the_frozen_run_with_that_phi(there, tmp_path):
    """main.py only notes its arguments here; figs/controls.py names a folder, or fails."""
    python, noted = tmp_path / "venv" / "bin" / "python", tmp_path / "noted"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(noted=noted, root=tmp_path / "R", there="true" if there else "false"))
    python.chmod(0o755)
    (tmp_path / "ResNet20-CIFAR10-pretrain.pth").touch()
    environment = {"VENV": tmp_path / "venv", "METAQUANT_PRETRAINED": tmp_path, "RESULTS": tmp_path / "R", "QUANTIZERS": "BWN"}
    command = ["bash", PROJECT / "scripts" / "controls.sh", "--set", "keep=conv1"]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    assert process.returncode == (0 if there else 1), process.stderr
    frozen = [line for line in noted.read_text().splitlines() if "-meta MultiFC" in line and "freeze-phi-after=0" in line]
    assert [" phi=a/run-keep-conv1 " in line for line in frozen] == ([True] if there else [])
    failed = [] if there else [f"failed: figs/controls.py {tmp_path}/R --phi-of BWN 0.01"]
    assert process.stderr.splitlines() == failed
