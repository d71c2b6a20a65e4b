"""The largest net with the largest meta network trains within its memory bound."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_npz

MAIN = Path(__file__).resolve().parent.parent / "main.py"


@pytest.mark.slow
def test_resnet110_with_lstmfc_trains_within_12_gib(tmp_path):
    """Three iterations of batch 128, checkpoint included, in a process of its own: its largest resident set."""
    data = write_npz(tmp_path / "many.npz", train=3 * 128, test=100, classes=100)
    arguments = ["-m", "ResNet110", "-d", data, "-meta", "LSTMFC", "-n", "1", "--pretrained", "none", "--results-root", tmp_path]
    subprocess.run([sys.executable, MAIN, "train", *arguments], check=True)
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["peak_memory"]["cpu_rss"] < 12 * 2**30
