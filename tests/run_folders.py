"""Run folders and trials made up for the tests of the report, and the rows of a report's tables."""

import json
import re
from pathlib import Path

import numpy as np

from utils.logs.layers_csv import HEADER, LayerRow, csv_text
from utils.report.published import logged
from utils.report.trials import Trial
from utils.tables.cells import Cell

CELL = Cell("ResNet20", "CIFAR10", "dorefa", "STE", "SGD")  # a published one
DIGITS = CELL._replace(dataset="Digits")
LEARNED = {"hidden_size": 100, "num_fc": 3, "meta_lr": 1e-3, "update_order": "notebook"}


def settings_of(cell, trial=1, epochs=12, **changes):
    """A run's settings; STE's have no value for M's."""
    own = LEARNED if cell.backward != "STE" else dict.fromkeys(LEARNED)
    common = {"bits": 1, "lr_adjust": 30, "weight_decay": 0.0, "pretrained": f"Results/{cell.model}.pth", "data_root": "data"}
    return {**cell._asdict(), **own, **common, "seed": 0, "trial": trial, "epochs": epochs, **changes}


def write_logs(path: Path, test_acc, train_loss, train_acc, per_epoch=3, extra_rows=0):
    """The text files as the recorder leaves them: running means whose value at an epoch's end is the epoch's."""
    path.mkdir(parents=True)
    loss = [value + 10.0 * (per_epoch - 1 - k) for value in train_loss for k in range(per_epoch)]
    acc = [value * (k + 1) / per_epoch for value in train_acc for k in range(per_epoch)]
    for name, values in (("loss", loss), ("train-acc", acc)):
        rows = [*values, *[99.0] * extra_rows]
        (path / f"{name}.txt").write_text("".join(f"{t}, {value}\n" for t, value in enumerate(rows)))
    (path / "test-acc.txt").write_text("".join(f"{k + 1}, {value}\n" for k, value in enumerate(test_acc)))
    return path


def make_run(path: Path, cell=CELL, trial=1, epochs=12, shift=0.0, per_epoch=3, extra_rows=0, settings=None, **record):
    """A run's folder; epoch k of it has the test accuracy 50 + k + shift, the training accuracy k and the training loss 1 / k."""
    k = np.arange(1, epochs + 1)
    write_logs(path, 50 + k + shift, 1 / k, k, per_epoch, extra_rows)
    full = {
        "settings": settings or settings_of(cell, trial, epochs),
        "state": "done",
        "started": path.name,
        "epochs_done": epochs,
        "iterations_per_epoch": per_epoch,
        "seconds_per_epoch": [2.0] * epochs,
        "versions": {"torch": "2.15"},
        "device": "cpu",
        "git": {"commit": "0123456789abcdef", "dirty": False},
    }
    (path / "run.json").write_text(json.dumps(full | record))
    return path


LAYERS = {"conv1": 432, "layer1.0.conv1": 2304, "fc": 640}  # name -> weights


def layer_rows(epochs, first=1, learned=True, layers=LAYERS):
    """Rows of layers.csv: in epoch k of the n-th layer (from 0) n / (10 k) flip; the cosine is 1 - 1 / k."""
    return [
        LayerRow(k, name, weights, n / (10 * k), n / 10, 0.0 if k > 1 else None, 0.5, 2.0, 1 - 1 / k if learned else None)
        for k in range(first, epochs + 1)
        for n, (name, weights) in enumerate(layers.items())
    ]


def write_layers(path, rows):
    """layers.csv in a run's folder."""
    (path / "layers.csv").write_text(HEADER + csv_text(rows))
    return path


def published_run(path, cell, trial, shift=0.0, old=False):
    """A run with the curves of a logged trial, its test accuracy shifted; old: without run.json."""
    log = logged()[cell][trial - 1]
    name = f"Baseline-{cell.quantizer}-optimizer-{cell.optimizer}-1bits-trial-{trial}"
    folder = path / f"{cell.model}-{cell.dataset}" / ("runs-Quant-Multiple" if old else "runs-Quant") / name
    write_logs(folder, log.test_acc + shift, log.train_loss, log.train_acc)
    if not old:
        record = {"epochs_done": 100, "iterations_per_epoch": 3, "state": "done", "settings": settings_of(cell, trial, 100)}
        (folder / "run.json").write_text(json.dumps(record))


def make_trial(test_acc, cell=CELL, number=1, source="here", **more):
    """A trial by its test accuracies."""
    acc = np.asarray(test_acc, dtype=float)
    more = {"settings": settings_of(cell, number, len(acc))} | more
    return Trial(cell, number, acc, 1 / (1 + np.arange(len(acc))), acc, source=Path(source), **more)


def rows_of(markdown, title):
    """The rows of a section's table in a report, as a dict by heading."""
    section = re.search(rf"^## {title}.*?(?=^## |\Z)", markdown, flags=re.MULTILINE | re.DOTALL)[0]
    lines = re.findall(r"^\| .* \|$", section, flags=re.MULTILINE)
    head, *rows = ([part.strip() for part in line[1:-1].split(" | ")] for line in lines)
    return [dict(zip(head, row, strict=True)) for row in rows]
