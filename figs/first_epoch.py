#!/usr/bin/env python3
"""Our first iterations and first epochs beside the published runs'.

    python figs/first_epoch.py [ROOT]

ROOT: the folder with the runs of scripts/evidence_first_iterations.sh and evidence_first_epochs.sh; their logs go into
figs/first_epoch/ as CSV, those of runs with an epoch's 391st batch into a file of their own. Prints the README's first
table and those of figs/first_epoch/README.md, and draws figs/first_epoch.png, from what lies there.
"""

import csv
import json
import lzma
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from figs.convergence import EPOCHS as LONG_RUNS  # noqa: E402
from figs.convergence import trials_below  # noqa: E402
from figs.ranges import CURVES, beyond, marked, span  # noqa: E402
from utils.report.pictures import COLOURS, logarithmic  # noqa: E402
from utils.report.published import FOLDER as PUBLISHED  # noqa: E402
from utils.report.published import logged, printed  # noqa: E402
from utils.report.reading import read_csv, write_csv  # noqa: E402
from utils.report.tables import method  # noqa: E402
from utils.report.trials import Trial, statistics  # noqa: E402
from utils.tables.cells import Cell  # noqa: E402
from utils.tabular import markdown_table, mean_variance  # noqa: E402

DATA = FOLDER / "first_epoch"
EPOCHS, ITERATIONS, ALL_BATCHES = DATA / "epochs.csv.xz", DATA / "iterations.csv.xz", DATA / "epochs_of_391.csv.xz"
COLUMNS = (*Cell._fields, "trial", "iterations", "loss", "train_acc", "made_by")
SHOWN = (10, 20, 60, 100)
WHOLE = 100  # epochs of a published run
DIGITS = next(digits for name, _, digits in CURVES if name == "test_acc")  # of a test accuracy


class Beginning(NamedTuple):
    """A run's running means after 1, 2, ... iterations of the first epoch: training loss, training accuracy in percent."""

    cell: Cell
    trial: int
    loss: np.ndarray
    train_acc: np.ndarray
    made_by: str


def collect(root: Path) -> None:
    """Writes the runs below the root as CSV: a row per iteration of the first epoch, and a row per finished epoch."""
    DATA.mkdir(exist_ok=True)
    every = [trial for trial in trials_below(root) if (log := trial.source / "loss.txt").is_file() and log.stat().st_size]
    ordered = [trial for trial in every if trial.settings.get("drop_last")]
    if whole := [trial for trial in every if trial.state == "done" and trial not in ordered]:
        write_csv(whole, ALL_BATCHES)
    if not ordered:
        return
    write_csv((trial for trial in ordered if trial.state == "done"), EPOCHS)
    with lzma.open(ITERATIONS, "wt", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for trial in ordered:
            per_epoch = json.loads((trial.source / "run.json").read_text())["iterations_per_epoch"]
            curves = [
                np.loadtxt(trial.source / f"{name}.txt", delimiter=",", ndmin=2)[:per_epoch, 1] for name in ("loss", "train-acc")
            ]
            for k, values in enumerate(zip(*curves, strict=True)):
                writer.writerow([*trial.cell, trial.number, k + 1, *values, trial.made_by if k == 0 else ""])


def beginnings() -> list[Beginning]:
    """What `collect` wrote of the iterations."""
    rows = defaultdict(list)
    with lzma.open(ITERATIONS, "rt", newline="") as file:
        for row in csv.DictReader(file):
            rows[Cell(*(row[name] for name in Cell._fields)), int(row["trial"])].append(row)
    return [
        Beginning(*key, *(np.array([float(row[name]) for row in run]) for name in ("loss", "train_acc")), run[0]["made_by"])
        for key, run in rows.items()
    ]


def published_beginnings() -> dict[tuple[Cell, int], tuple[float, float]]:
    """(cell, iterations) -> lowest and highest running mean of the training loss among the published trials."""
    with open(PUBLISHED / "published_first_iterations.csv", newline="") as file:
        return {
            (
                Cell(row["model"], row["dataset"], row["forward"], row["backward"], row["optimizer"]),
                int(row["iterations"]),
            ): (float(row["lowest_loss"]), float(row["highest_loss"]))
            for row in csv.DictReader(file)
        }


def summary() -> str:
    """How many of our values lie outside the published ranges, those of two or three trials, and how far."""
    bands = published_beginnings()
    first = [
        beyond(run.loss[n - 1], band, 2)
        for run in beginnings()
        for (cell, n), band in bands.items()
        if run.cell == cell and band[0] < band[1] and len(run.loss) >= n
    ]
    sentences = [_outside("running means of the training loss after 10 to 100 iterations", first)]
    compared = [(trial, logged()[trial.cell]) for trial in read_csv(EPOCHS) if len(logged().get(trial.cell, ())) > 1]
    for name, what, digits in CURVES:
        found = [
            beyond(getattr(trial, name)[0], [getattr(theirs, name)[0] for theirs in logs], digits) for trial, logs in compared
        ]
        sentences.append(_outside(f"values of epoch 1's {what}", found))
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _outside(what: str, found: Sequence[float]) -> str:
    missed = [distance for distance in found if distance]
    farthest = f", the farthest by {100 * max(missed):.1f} %" if missed else ""
    return f"{len(missed)} of {len(found)} {what} lie outside the published ranges{farthest}."


def iterations_table() -> str:
    """Running mean of the training loss: published range, and ours trial by trial."""
    runs, bands = defaultdict(list), published_beginnings()
    for run in beginnings():
        runs[run.cell].append(run)
    head = ("net", "method", *(f"after {n}: published" if side == 0 else "ours" for n in SHOWN for side in (0, 1)))
    rows = []
    for cell, trials in runs.items():
        columns = []
        for n in SHOWN:
            band = bands.get((cell, n), ())
            reached = [run.loss[n - 1] for run in trials if len(run.loss) >= n]
            columns += [span(band, 2), marked(reached, band, 2)]
        rows.append((f"{cell.model} {cell.dataset}", method(cell), *columns))
    return markdown_table(head, *rows)


def accuracy_table() -> str:
    """Test accuracy, paper, logs and ours: of the last 10 of 100 epochs, and after epoch 1."""
    head = ("net", "method", "100 epochs: paper", "logs", "ours", "after epoch 1: logs", "ours")
    longer, rows = [trial for trial in read_csv(LONG_RUNS) if trial.epochs == WHOLE], []
    for cell, theirs, ours in _first_epochs():
        paper = mean_variance(printed()[cell].mean, printed()[cell].variance) if cell in printed() else "none"
        whole = [_last_epochs(trials) for trials in (theirs, [trial for trial in longer if trial.cell == cell])]
        band, found = ([trial.test_acc[0] for trial in side] for side in (theirs, ours))
        row = (f"{cell.model} {cell.dataset}", method(cell), paper, *whole, span(band, DIGITS), marked(found, band, DIGITS))
        rows.append(row)
    return markdown_table(head, *rows)


def epochs_table() -> str:
    """Epoch 1's training loss and accuracies: the range of the logs, and ours trial by trial."""
    heads = [f"{what}: {who}" for _, what, _ in CURVES for who in ("logs", "ours")]
    rows = []
    for cell, theirs, ours in _first_epochs():
        columns = []
        for name, _, digits in CURVES:
            band, found = ([getattr(trial, name)[0] for trial in side] for side in (theirs, ours))
            columns += [span(band, digits), marked(found, band, digits)]
        rows.append((f"{cell.model} {cell.dataset}", method(cell), *columns, f"{len(theirs)}, {len(ours)}"))
    return markdown_table(("net", "method", *heads, "n: logs, ours"), *rows)


def _first_epochs() -> list[tuple[Cell, Sequence[Trial], list[Trial]]]:
    """(cell, the logged trials, ours) in the paper's order, STE first."""
    ours: dict[Cell, list[Trial]] = defaultdict(list)
    for trial in read_csv(EPOCHS):
        ours[trial.cell].append(trial)
    cells = sorted(ours, key=lambda cell: (*cell[:3], cell.optimizer != "SGD", cell.backward != "STE"))
    return [(cell, logged().get(cell, ()), ours[cell]) for cell in cells]


def last_batch_table() -> str:
    """Test accuracy after epoch 1: published, ours without and ours with the 391st batch of 80 images."""
    rows = []
    sides: list[dict[Cell, list[float]]] = [defaultdict(list), defaultdict(list)]
    for side, path in zip(sides, (EPOCHS, ALL_BATCHES), strict=True):
        for trial in read_csv(path):
            side[trial.cell].append(trial.test_acc[0])
    for cell, with_last in sides[1].items():
        band = [trial.test_acc[0] for trial in logged().get(cell, ())]
        ours = [marked(side, band, DIGITS) for side in (sides[0][cell], with_last)]
        rows.append((f"{cell.model} {cell.dataset}", method(cell), span(band, DIGITS), *ours))
    return markdown_table(("net", "method", "logs", "ours, 390 batches", "ours, 391 batches"), *rows)


def last_batch_difference() -> str:
    """What the 391st batch changes, over the runs that were made with and without it."""
    without = {(trial.cell, trial.number): trial.test_acc[0] for trial in read_csv(EPOCHS)}
    pairs = [(trial, without.get((trial.cell, trial.number))) for trial in read_csv(ALL_BATCHES)]
    found = [trial.test_acc[0] - other for trial, other in pairs if other is not None]
    if not found:
        return "over no pair of runs"
    return f"by {min(found):.1f} to {max(found):+.1f} points over {len(found)} pairs of runs, mean {np.mean(found):.1f}"


def _last_epochs(trials: Sequence[Trial]) -> str:
    if not trials:
        return "none"
    found = statistics(trials)
    return f"{mean_variance(found.mean, found.variance)}, n = {found.n}"


def draw(path: Path) -> None:
    """A panel per quantizer and optimizer of ResNet20: our running means as lines; bars: the published ranges."""
    runs = [run for run in beginnings() if run.cell.model == "ResNet20"]
    panels = list(dict.fromkeys((run.cell.quantizer, run.cell.optimizer) for run in runs))
    figure = Figure(figsize=(10, 8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for run in runs:
            if (run.cell.quantizer, run.cell.optimizer) == panel:
                label = run.cell.backward if run.trial == 1 else None
                axes.plot(np.arange(1, len(run.loss) + 1), run.loss, color=COLOURS[run.cell.backward], lw=1, label=label)
        marks = [(cell, n, band) for (cell, n), band in published_beginnings().items()]
        for cell, trials in logged().items():
            if cell.model == "ResNet20":
                losses = [trial.train_loss[0] for trial in trials]
                marks.append((cell, 390, (min(losses), max(losses))))
        for cell, n, (low, high) in marks:
            if (cell.quantizer, cell.optimizer) == panel:
                axes.plot([n, n], [low, high], color=COLOURS[cell.backward], lw=7, marker="o", ms=7, mew=0, alpha=0.35)
        axes.set(
            title=" ".join(panel), xlabel="iteration", ylabel="training loss, mean since the start", xscale="log", xlim=(5, 500)
        )
        logarithmic(axes)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="small", title="lines: ours; bars: published", title_fontsize="small")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Collects if there is a root; prints and draws."""
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    texts = (accuracy_table, epochs_table, iterations_table, summary, last_batch_difference, last_batch_table)
    print("\n\n".join(text() for text in texts))
    draw(FOLDER / "first_epoch.png")


if __name__ == "__main__":
    main()
