"""What runs came to: reading their folders, the summary table, the curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.miscellaneous import BadInput
from utils.run import REPLACED, read_record

LAST = 10


@dataclass(frozen=True)
class RunLog:
    """A run's record and its curves, a value per finished epoch: loss, train_acc and test_acc (percent)."""

    path: Path
    record: dict[str, Any]
    loss: np.ndarray
    train_acc: np.ndarray
    test_acc: np.ndarray

    @property
    def method(self) -> str:
        """The run in a few words: what stood behind the quantizer and the optimizee, or the base model."""
        s = self.record["settings"]
        return f"{s['quantizer']} {s['optimizer']} {s['backward']}" if "backward" in s else "full precision"


def read_run(path: Path) -> RunLog:
    """A run's folder. The value of an epoch is the running mean at its last iteration. Raises BadInput as read_record does."""
    record = read_record(path)
    curves = [_column(path / f"{name}.txt") for name in ("loss", "train-acc", "test-acc")]
    epochs, per_epoch = record.get("epochs_done", 0), record.get("iterations_per_epoch", 1)
    loss, train_acc = (curve[per_epoch - 1 :: per_epoch][:epochs] for curve in curves[:2])
    return RunLog(path, record, loss, train_acc, curves[2][:epochs])


def _column(path: Path) -> np.ndarray:
    """The second column of rows "count, value"."""
    if not path.is_file() or not path.stat().st_size:
        return np.empty(0)
    return np.loadtxt(path, delimiter=",", ndmin=2)[:, 1]


def find_runs(roots: list[str]) -> list[RunLog]:
    """Every run below the roots, oldest first, without those replaced. Raises BadInput for a root without runs."""
    runs = []
    for root in roots:
        found = [read_run(file.parent) for file in Path(root).rglob("run.json") if REPLACED not in file.parts]
        if not found:
            raise BadInput(f"{root}: no runs below it (no run.json)")
        runs += found
    return sorted(runs, key=lambda run: (run.record.get("started", ""), str(run.path)))


def summary_table(runs: list[RunLog]) -> str:
    """A Markdown table: final and best test accuracy, mean (population variance) of the last 10 epochs, seconds per epoch."""
    rows = [
        f"| run | epochs | test accuracy | best | last {LAST} mean (variance) | s / epoch | state |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        acc, epochs = run.test_acc, len(run.test_acc)
        if not epochs:
            rows.append(f"| {run.method} | 0 | | | | | {run.record['state']} |")
            continue
        last = acc[-LAST:]
        seconds = np.median(run.record["seconds_per_epoch"])
        rows.append(
            f"| {run.method} | {epochs} | {acc[-1]:.2f} | {acc.max():.2f} | {last.mean():.3f} ({last.var():.3f}) | {seconds:.1f} "
            f"| {run.record['state']} |"
        )
    return "\n".join(rows)


def draw_curves(runs: list[RunLog], path: str | Path) -> None:
    """Training loss and test accuracy per epoch, a line per run, into a picture file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, acc_axes = figure.subplots(1, 2)
    for run in runs:
        epochs = np.arange(1, len(run.test_acc) + 1)
        loss_axes.plot(epochs, run.loss, label=run.method)
        acc_axes.plot(epochs, run.test_acc, label=run.method)
    for axes, label in ((loss_axes, "training loss"), (acc_axes, "test accuracy (%)")):
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(alpha=0.3)
    loss_axes.set_yscale("log")
    acc_axes.legend()
    figure.savefig(path, dpi=150)
