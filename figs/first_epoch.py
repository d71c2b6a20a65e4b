#!/usr/bin/env python3
"""Our first iterations and first epochs beside the published runs'.

    python figs/first_epoch.py [ROOT]

ROOT: the folder with the runs of scripts/evidence_first_iterations.sh and evidence_first_epochs.sh. They are added to
figs/first_epoch/, which keeps the longest run of each cell and trial; runs with an epoch's 391st batch, and runs in bf16, have
files of their own.
Prints the tables of figs/first_epoch/README.md and draws figs/first_epoch.png, from what is stored there.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from figs.ranges import CURVES, range_text, relative_excess, starred  # noqa: E402
from figs.stored import as_expected, by_cell, in_order, merged, read_stored, trials_below  # noqa: E402
from utils import LOSS_LOG, TRAIN_LOG, log_file  # noqa: E402
from utils.choices import BF16  # noqa: E402
from utils.files.markdown import markdown_table  # noqa: E402
from utils.report.csv_files import TRIAL, read_frame, write_csv  # noqa: E402
from utils.report.pictures import COLOURS, logarithmic  # noqa: E402
from utils.report.published import FOLDER as PUBLISHED  # noqa: E402
from utils.report.published import logged, published_settings  # noqa: E402
from utils.report.trials import Trial  # noqa: E402
from utils.run.folder.record import read_record  # noqa: E402
from utils.tables.cells import Cell  # noqa: E402

DATA = FOLDER / "first_epoch"
EPOCHS, ITERATIONS, ALL_BATCHES = DATA / "epochs.csv.xz", DATA / "iterations.csv.xz", DATA / "epochs_of_391.csv.xz"
IN_BF16 = DATA / "epochs_in_bf16.csv.xz"  # of 390 batches
SHOWN = (10, 20, 60, 100)  # iterations
COLUMNS = 2  # of panels
TEST_DIGITS = next(digits for name, _, digits in CURVES if name == "test_acc")


class Beginning(NamedTuple):
    """A trial's running means of training loss and accuracy (percent) after 1, 2, ... iterations of the first epoch."""

    cell: Cell
    number: int
    loss: np.ndarray
    train_acc: np.ndarray
    made_by: str


def collect(root: Path) -> None:
    """Adds the runs below the root to the stored ones: finished epochs, and the first epoch's iterations as far as they go."""
    started = [
        trial for trial in trials_below([root]) if (log := trial.source / log_file(LOSS_LOG)).is_file() and log.stat().st_size
    ]
    kinds: dict[Path, list[Trial]] = {EPOCHS: [], ALL_BATCHES: [], IN_BF16: []}
    new = as_expected(started, _expected_settings, (trial for path in kinds for trial in read_stored(path)))
    for trial in new:
        kinds[IN_BF16 if _is_bf16(trial) else EPOCHS if trial.settings.get("drop_last") else ALL_BATCHES].append(trial)
    begun = merged(beginnings(), map(_beginning, kinds[EPOCHS]), length=lambda beginning: len(beginning.loss))
    for path, found in kinds.items():
        finished = [trial for trial in found if trial.state == "done"]
        if finished:
            write_csv(merged(read_stored(path), finished, length=lambda trial: trial.epochs), path)
    if begun:
        pd.concat(map(_frame, begun)).to_csv(ITERATIONS, index=False, lineterminator="\n")


def _is_bf16(trial: Trial) -> bool:
    return trial.settings.get("precision") == BF16


def _expected_settings(trial: Trial) -> dict[str, Any] | None:
    """Those of the published runs of its cell, but one epoch, with the 391st batch or without, or without it in bf16.

    BWN MultiFC has dorefa's.
    """
    settings = published_settings(trial.cell) or published_settings(trial.cell._replace(quantizer="dorefa"))
    if settings is None:
        return None
    if _is_bf16(trial):
        return settings | {"epochs": 1, "precision": BF16}
    return settings | {"epochs": 1, "drop_last": bool(trial.settings.get("drop_last"))}


def _beginning(trial: Trial) -> Beginning:
    length = read_record(trial.source)["iterations_per_epoch"]
    paths = (trial.source / log_file(log) for log in (LOSS_LOG, TRAIN_LOG))
    loss, train_acc = (np.loadtxt(path, delimiter=",", ndmin=2)[:length, 1] for path in paths)
    return Beginning(trial.cell, trial.number, loss, train_acc, trial.made_by)


def _frame(run: Beginning) -> pd.DataFrame:
    """A row per iteration; what made the run is on the first one."""
    curves = {"iterations": range(1, len(run.loss) + 1), "loss": run.loss, "train_acc": run.train_acc}
    made_by = [run.made_by] + [""] * (len(run.loss) - 1)
    return pd.DataFrame({**run.cell._asdict(), "trial": run.number, **curves, "made_by": made_by})


def beginnings() -> list[Beginning]:
    """The stored first iterations, by cell and trial; none where there is no file."""
    if not ITERATIONS.is_file():
        return []
    frame = read_frame(ITERATIONS, {"trial": int, "loss": float, "train_acc": float})
    return [
        Beginning(Cell(*cell), int(number), rows["loss"].to_numpy(), rows["train_acc"].to_numpy(), rows["made_by"].iloc[0])
        for (*cell, number), rows in frame.groupby([*TRIAL], sort=False)
    ]


def published_beginnings() -> dict[tuple[Cell, int], tuple[float, float]]:
    """(cell, iterations) -> lowest and highest running mean of the training loss among the published trials."""
    path = PUBLISHED / "published_first_iterations.csv"
    rows = read_frame(path, {"iterations": int, "lowest_loss": float, "highest_loss": float}).itertuples(index=False)
    return {(Cell(*cell), iterations): (low, high) for *cell, iterations, low, high in rows}


def summary() -> str:
    """How many of our values lie outside the published ranges, and how far."""
    first = [
        relative_excess(run.loss[n - 1], band, 2)
        for run in beginnings()
        for (cell, n), band in published_beginnings().items()
        if run.cell == cell and band[0] < band[1] and len(run.loss) >= n
    ]
    sentences = [_outside("running means of the training loss after 10 to 100 iterations", first)]
    compared = [(trial, logged()[trial.cell]) for trial in read_stored(EPOCHS) if len(logged().get(trial.cell, ())) > 1]
    for name, what, digits in CURVES:
        found = [relative_excess(getattr(trial, name)[0], _first(logs, name), digits) for trial, logs in compared]
        sentences.append(_outside(f"values of epoch 1's {what}", found))
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _outside(what: str, excesses: Sequence[float]) -> str:
    outside = [excess for excess in excesses if excess]
    farthest = f", the farthest by {100 * max(outside):.1f} %" if outside else ""
    return f"{len(outside)} of {len(excesses)} {what} lie outside the published ranges{farthest}."


def _first(trials: Iterable[Trial], curve: str = "test_acc") -> list[float]:
    """The trials' values of epoch 1."""
    return [getattr(trial, curve)[0] for trial in trials]


def iterations_table() -> str:
    """Running mean of the training loss: published range, and ours trial by trial."""
    bands = published_beginnings()
    head = ("net", "method", *(f"after {n}: published" if side == 0 else "ours" for n in SHOWN for side in (0, 1)))
    rows = []
    for cell, runs in by_cell(beginnings()).items():
        columns = []
        for n in SHOWN:
            band = bands.get((cell, n), ())
            reached = [run.loss[n - 1] for run in runs if len(run.loss) >= n]
            columns += [range_text(band, 2), starred(reached, band, 2)]
        rows.append((cell.net, cell.method, *columns))
    return markdown_table(head, *rows)


def epochs_table() -> str:
    """Epoch 1's training loss and accuracies: the range of the logs, and ours trial by trial."""
    heads = [f"{what}: {who}" for _, what, _ in CURVES for who in ("logs", "ours")]
    rows = []
    for cell, ours in by_cell(in_order(read_stored(EPOCHS))).items():
        logs, columns = logged().get(cell, ()), []
        for name, _, digits in CURVES:
            band = _first(logs, name)
            columns += [range_text(band, digits), starred(_first(ours, name), band, digits)]
        rows.append((cell.net, cell.method, *columns, f"{len(logs)}, {len(ours)}"))
    return markdown_table(("net", "method", *heads, "n: logs, ours"), *rows)


def last_batch_table() -> str:
    """Test accuracy after epoch 1: published, ours without and ours with the 391st batch of 80 images."""
    without, rows = by_cell(read_stored(EPOCHS)), []
    for cell, with_last in by_cell(in_order(read_stored(ALL_BATCHES))).items():
        band = _first(logged().get(cell, ()))
        ours = [starred(_first(side), band, TEST_DIGITS) for side in (without[cell], with_last)]
        rows.append((cell.net, cell.method, range_text(band, TEST_DIGITS), *ours))
    return markdown_table(("net", "method", "logs", "ours, 390 batches", "ours, 391 batches"), *rows)


def last_batch_difference() -> str:
    """How the 391st batch changes the test accuracy, over the trials that were run with and without it."""
    without = {(trial.cell, trial.number): trial.test_acc[0] for trial in read_stored(EPOCHS)}
    pairs = [(trial.test_acc[0], without.get((trial.cell, trial.number))) for trial in read_stored(ALL_BATCHES)]
    changes = [accuracy - other for accuracy, other in pairs if other is not None]
    if not changes:
        return "over no pair of runs"
    return f"by {min(changes):.1f} to {max(changes):+.1f} points over {len(changes)} pairs of runs, mean {np.mean(changes):.1f}"


def bf16_table() -> str:
    """Epoch 1's training loss and accuracies in float32 and in bf16, of the trials that were run in both."""
    in_float32 = {(trial.cell, trial.number): trial for trial in read_stored(EPOCHS)}
    both = [trial for trial in in_order(read_stored(IN_BF16)) if (trial.cell, trial.number) in in_float32]
    heads = [f"{what}: {precision}" for _, what, _ in CURVES for precision in ("float32", "bf16")]
    rows = []
    for trial in both:
        pair = in_float32[trial.cell, trial.number], trial
        values = [f"{getattr(one, name)[0]:.{digits}f}" for name, _, digits in CURVES for one in pair]
        rows.append((trial.cell.net, trial.cell.method, str(trial.number), *values))
    return markdown_table(("net", "method", "trial", *heads), *rows)


def draw(path: Path) -> None:
    """Draws a panel per quantizer and optimizer of ResNet20: our running means as lines, the published ranges as bars.

    Draws nothing where there are no runs.
    """
    runs = [run for run in beginnings() if run.cell.model == "ResNet20"]
    panels = list(dict.fromkeys((run.cell.quantizer, run.cell.optimizer) for run in runs))
    if not panels:
        return
    rows = math.ceil(len(panels) / COLUMNS)
    figure = Figure(figsize=(5 * COLUMNS, 4 * rows), layout="constrained")
    for place, panel in enumerate(panels, start=1):
        axes, named = figure.add_subplot(rows, COLUMNS, place), set()
        for run in runs:
            if (run.cell.quantizer, run.cell.optimizer) == panel:
                label = run.cell.backward if run.cell.backward not in named else None
                named.add(run.cell.backward)
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
    """Collects the runs below the root, if there is one, prints the tables and draws the picture."""
    parser = argparse.ArgumentParser(description="Our first iterations and first epochs beside the published runs'.")
    parser.add_argument("root", metavar="ROOT", nargs="?", type=Path, help="folder with runs to add to the stored ones")
    root = parser.parse_args().root
    if root:
        collect(root)
    texts = (epochs_table, iterations_table, summary, last_batch_difference, last_batch_table, bf16_table)
    print("\n\n".join(text() for text in texts))
    draw(FOLDER / "first_epoch.png")


if __name__ == "__main__":
    main()
