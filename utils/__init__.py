"""Quantizers, data, logs and helpers by the notebook's names; in the rooms below: run, tables, report, benchmark, cli."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MAIN = PROJECT / "main.py"
LOGS = ("loss", "train-acc", "test-acc", "lr")  # a run's text files, each with the suffix .txt
VALIDATION_LOG = "val-acc"  # one more, of a run with validation images


def default_data_root() -> str:
    """The folder of the CIFAR sets: METAQUANT_DATA, or ./data where it is not set."""
    return os.environ.get("METAQUANT_DATA") or "./data"
