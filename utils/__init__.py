"""Quantizers, data, logs and helpers under the notebook's names; rooms for files, logs, options, quantizers, runs and more."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MAIN = PROJECT / "main.py"
LOGS = LOSS_LOG, TRAIN_LOG, TEST_LOG, RATE_LOG = ("loss", "train-acc", "test-acc", "lr")  # every run's text files
VALIDATION_LOG = "val-acc"  # one more, of a run with validation images
LAYERS_LOG = "layers"  # one more, of a run with a quantizer


def log_file(log: str) -> str:
    """The name of a log's file in a run's folder."""
    return f"{log}.{'csv' if log == LAYERS_LOG else 'txt'}"


def default_data_root() -> str:
    """The folder of the CIFAR sets: METAQUANT_DATA, or ./data where it is not set."""
    return os.environ.get("METAQUANT_DATA") or "./data"
