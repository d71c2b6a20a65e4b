#!/usr/bin/env python3
"""Our runs of 100 epochs, finished or not, beside the published runs.

    python figs/convergence.py [ROOT ...]

ROOT: a folder with runs, such as those of scripts/evidence_table1.sh. Those with the published settings, and with the data and
base model of the stored runs, are added to figs/convergence/, which keeps the longest run of each cell and trial; others are
named. Prints the README's first table and the tables of figs/convergence/README.md, and draws figs/convergence.png, from what is
stored there.
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtr

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from figs.ranges import CURVES, range_text, starred  # noqa: E402
from figs.stored import as_expected, by_cell, merged, read_stored, trials_below  # noqa: E402
from utils.files.markdown import markdown_table  # noqa: E402
from utils.report.csv_files import read_csv, write_csv  # noqa: E402
from utils.report.formatting import mean_variance  # noqa: E402
from utils.report.pictures import curve_panels, draw_curves, series_of  # noqa: E402
from utils.report.published import logged, printed, published_settings  # noqa: E402
from utils.report.statistics import statistics  # noqa: E402
from utils.report.trials import Group, Trial  # noqa: E402
from utils.tables.cells import Cell  # noqa: E402

STORED = FOLDER / "convergence" / "epochs.csv.xz"
EPOCHS = 100  # of a published run
DEEPER = ("ResNet32", "ResNet44")  # nets with five published trials of every cell
BLOCK = 10  # epochs per row of the table, which shows their means
SPANS = ((0, 10), (10, 30), (30, 60), (60, 100))  # epochs over which trials are compared: the first ten, then with one alpha
DRAWN = 30  # epochs of a run that is drawn, at least


def collect(roots: Iterable[Path], stored: Path = STORED) -> None:
    """Adds the epochs of the runs below the roots to what is stored, but for runs of other settings, data or base models."""
    known = read_stored(stored)
    new = as_expected(trials_below(roots), lambda trial: published_settings(trial.cell), known)
    write_csv(merged(known, new, length=lambda trial: trial.epochs), stored)


def is_whole(trial: Trial) -> bool:
    """Whether the run has finished its 100 epochs."""
    return trial.state == "done" and trial.epochs == EPOCHS


def progress(trial: Trial) -> str:
    """Whether the run is finished, and its number of epochs."""
    return f"{'finished' if is_whole(trial) else 'unfinished'}, {trial.epochs} of {EPOCHS}"


def accuracy_table(trials: Sequence[Trial]) -> str:
    """The published statistic of each cell with a finished run: paper, logs and ours, with the number of trials."""
    rows = []
    for cell, ours in by_cell(filter(is_whole, trials)).items():
        paper = mean_variance(printed()[cell].mean, printed()[cell].variance) if cell in printed() else "none"
        values = []
        for side in (logged().get(cell, ()), ours):
            found = statistics(side) if side else None
            values.append(f"{mean_variance(found.mean, found.variance)}, n = {found.n}" if found else "none")
        rows.append((cell.net, cell.method, paper, *values))
    return markdown_table(("net", "method", "paper", "logs", "ours (n)"), *rows)


def coverage(trials: Sequence[Trial]) -> str:
    """A sentence that says how many cells of the paper have been run to 100 epochs, and how many have not."""
    finished = len({trial.cell for trial in trials if is_whole(trial)} & printed().keys())
    rest = len(printed()) - finished
    others = f"; the other {rest} {_have(rest)} not" if rest else ""
    cells = f"{finished} of the {len(printed())} cells of the paper's Tables 1 and 2"
    return f"{cells} {_have(finished)} been run to {EPOCHS} epochs{others}."


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def epochs_table(trials: Sequence[Trial]) -> str:
    """Means over ten epochs at a time, or fewer at the end: the range of the published trials, and ours."""
    head = ("net", "method", "trial", "run", "epochs", *(f"{what}: {who}" for _, what, _ in CURVES for who in ("logs", "ours")))
    rows = []
    for trial in trials:
        for start in range(0, trial.epochs, BLOCK):
            stop = min(start + BLOCK, trial.epochs)
            columns = []
            for name, _, digits in CURVES:
                published = [getattr(one, name)[start:stop].mean() for one in logged().get(trial.cell, ())]
                ours = [getattr(trial, name)[start:stop].mean()]
                columns += [range_text(published, digits), starred(ours, published, digits)]
            run = (trial.cell.net, trial.cell.method, str(trial.number), progress(trial), f"{start + 1} - {stop}")
            rows.append((*run, *columns))
    return markdown_table(head, *rows)


def trials_table(trials: Sequence[Trial]) -> str:
    """Means over all epochs of each finished run beside those of the published trials of its cell, with standard deviations.

    Also the standard deviations over the trials of the same cell of deeper nets, of which five are published.
    """
    head = ("net", "method", "mean over 100 epochs", "ours", "logs: mean", "sd", "n", *(f"sd of {net}" for net in DEEPER))
    rows = []
    for trial in filter(is_whole, trials):
        for name, what, digits in CURVES:
            sides = [logged().get(trial.cell._replace(model=net), ()) for net in (trial.cell.model, *DEEPER)]
            means = [np.array([getattr(one, name).mean() for one in side]) for side in sides]
            deviations = [f"{found.std(ddof=1):.{digits + 1}f}" if len(found) > 1 else "" for found in means]
            numbers = f"{getattr(trial, name).mean():.{digits}f}", f"{means[0].mean():.{digits}f}" if len(means[0]) else ""
            rows.append((trial.cell.net, trial.cell.method, what, *numbers, deviations[0], str(len(means[0])), *deviations[1:]))
    return markdown_table(head, *rows)


def differences_table(trials: Iterable[Trial]) -> str:
    """Training accuracy of our trials minus the mean of the published ones, over some epochs at a time, with a t-test.

    The standard deviation over trials, and the degrees of freedom, are pooled over the published trials of the same method with
    the same optimizer: every quantizer, and every net on the same data set.
    """
    head = ("net", "method", "epochs", "logs (n)", "ours minus logs, by trial", "mean", "standard error", "p")
    rows = []
    for cell, ours in by_cell(trials).items():
        logs = logged().get(cell, ())
        for start, stop in SPANS if len(logs) > 1 else ():
            reached = [trial for trial in ours if trial.epochs >= stop]
            if not reached:
                continue
            published, sd, freedom = _accuracies(logs, start, stop), *pooled_deviation(cell, start, stop)
            differences = _accuracies(reached, start, stop) - published.mean()
            error = sd * math.sqrt(1 / len(differences) + 1 / len(published))
            p = 2 * stdtr(freedom, -abs(differences.mean()) / error)
            by_trial = ", ".join(
                f"{trial.number}: {difference:+.2f}" for trial, difference in zip(reached, differences, strict=True)
            )
            means = f"{published.mean():.2f} ({len(published)})", by_trial, f"{differences.mean():+.2f}"
            rows.append((cell.net, cell.method, f"{start + 1} - {stop}", *means, f"{error:.2f}", f"{p:.3f}"))
    return markdown_table(head, *rows)


def pooled_deviation(cell: Cell, start: int, stop: int) -> tuple[float, int]:
    """The standard deviation over published trials of the training accuracy of some epochs, and its degrees of freedom."""
    groups = [
        _accuracies(trials, start, stop)
        for other, trials in logged().items()
        if other == cell._replace(model=other.model, quantizer=other.quantizer)
    ]
    freedom = sum(len(group) - 1 for group in groups)
    return math.sqrt(sum(group.var() * len(group) for group in groups) / freedom), freedom


def _accuracies(trials: Iterable[Trial], start: int, stop: int) -> np.ndarray:
    """Each trial's training accuracy, the mean of some epochs."""
    return np.array([trial.train_acc[start:stop].mean() for trial in trials])


def spread() -> str:
    """How far published trials of one cell lie apart: ResNet44's MultiFC with SGD, of which ResNet20 has one trial only."""
    cell = Cell("ResNet44", "CIFAR10", "dorefa", "MultiFC", "SGD")
    trials = logged()[cell]
    losses = [trial.train_loss[:BLOCK].mean() for trial in trials]
    middle, last = ([trial.test_acc[start : start + BLOCK].mean() for trial in trials] for start in (50, 90))
    return (
        f"the {len(trials)} published trials of {cell.model}'s {cell.method} have mean training losses of "
        f"{range_text(losses, 3)} in epochs 1 - {BLOCK}, and mean test accuracies of {range_text(middle, 2)} in epochs 51 - 60 "
        f"and {range_text(last, 2)} in the last ten"
    )


def second_peak(trial: Trial) -> str:
    """The highest training loss of epochs 10 to 30."""
    epoch = 10 + int(trial.train_loss[9:30].argmax())
    return f"{trial.train_loss[epoch - 1]:.2f} in epoch {epoch}"


def draw(trials: Sequence[Trial], path: Path) -> None:
    """A row of panels, training loss and test accuracy, per net, quantizer and optimizer: our runs over the published bands.

    Runs of fewer epochs than DRAWN are left out.
    """
    blocks = defaultdict(list)
    for trial in (trial for trial in trials if trial.epochs >= DRAWN):
        label = f"trial {trial.number}" + ("" if is_whole(trial) else f", {progress(trial)} epochs")
        blocks[trial.cell.block].append(Group(trial.cell, label, (trial,)))
    rows = []
    for block, groups in blocks.items():
        cells = list(dict.fromkeys(group.cell for group in groups))
        rows.append(curve_panels(" ".join(block), series_of(groups, cells)))
    draw_curves(rows, path)


def main() -> None:
    """Collects the runs below the roots, prints the tables and draws the picture."""
    parser = argparse.ArgumentParser(description="Our runs of 100 epochs beside the published runs.")
    parser.add_argument("roots", metavar="ROOT", nargs="*", type=Path, help="folder with runs to add to the stored ones")
    roots = parser.parse_args().roots
    if roots:
        collect(roots)
    trials = read_csv(STORED)
    tables = accuracy_table(trials), coverage(trials), epochs_table(trials), trials_table(trials), differences_table(trials)
    print("\n\n".join([*tables, f"For comparison: {spread()}."]))
    for trial in (trial for trial in trials if trial.epochs >= DRAWN):
        found = [second_peak(one) for one in (*logged().get(trial.cell, ()), trial)]
        print(f"Highest training loss of epochs 10 to 30, {trial.cell.method}, logs and ours: {', '.join(found)}")
    draw(trials, FOLDER / "convergence")


if __name__ == "__main__":
    main()
