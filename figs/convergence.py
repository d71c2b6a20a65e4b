#!/usr/bin/env python3
"""Our long runs beside the published runs', epoch by epoch.

    python figs/convergence.py [ROOT]

ROOT: the folder with the runs of scripts/evidence_convergence.sh, also unfinished ones; their epochs go into
figs/convergence/ as CSV. Prints the table of its README.md and a comparison, and draws figs/convergence.png from what lies there.
"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from figs.ranges import CURVES, marked, span  # noqa: E402
from utils.report.pictures import ACCURACY, LOSS, draw_curves, series_of  # noqa: E402
from utils.report.published import logged  # noqa: E402
from utils.report.reading import find_trials, read_csv, write_csv  # noqa: E402
from utils.report.tables import method  # noqa: E402
from utils.report.trials import Group, Trial  # noqa: E402
from utils.tables.cells import Cell  # noqa: E402
from utils.tabular import markdown_table  # noqa: E402

EPOCHS = FOLDER / "convergence" / "epochs.csv.xz"
BLOCK = 10  # epochs whose mean a row of the table shows


def trials_below(root: Path) -> list[Trial]:
    """The runs below the root, by cell and trial; exits where one cannot be read."""
    trials, problems = find_trials([root])
    if problems:
        sys.exit("\n".join(problems))
    return sorted(trials, key=lambda trial: (trial.cell, trial.number))


def collect(root: Path) -> None:
    """Writes the finished epochs of the runs below the root as CSV."""
    trials = trials_below(root)
    EPOCHS.parent.mkdir(exist_ok=True)
    write_csv(trials, EPOCHS)


def table() -> str:
    """Means over ten epochs at a time, the last ones fewer: the range of the published trials, and ours."""
    head = ("net", "method", "trial", "epochs", *(f"{what}: {who}" for _, what, _ in CURVES for who in ("logs", "ours")))
    rows = []
    for trial in read_csv(EPOCHS):
        theirs = logged().get(trial.cell, ())
        for start in range(0, trial.epochs, BLOCK):
            stop = min(start + BLOCK, trial.epochs)
            columns = []
            for name, _, digits in CURVES:
                band, ours = ([getattr(one, name)[start:stop].mean() for one in side] for side in (theirs, [trial]))
                columns += [span(band, digits), marked(ours, band, digits)]
            net, epochs = f"{trial.cell.model} {trial.cell.dataset}", f"{start + 1} - {stop}"
            rows.append((net, method(trial.cell), str(trial.number), epochs, *columns))
    return markdown_table(head, *rows)


def spread() -> str:
    """How far published trials of one cell are apart, for comparison: ResNet20 has one with MultiFC and SGD, ResNet44 five."""
    cell = Cell("ResNet44", "CIFAR10", "dorefa", "MultiFC", "SGD")
    trials = logged()[cell]
    losses = [trial.train_loss[:BLOCK].mean() for trial in trials]
    middle, last = ([trial.test_acc[start : start + BLOCK].mean() for trial in trials] for start in (50, 90))
    return (
        f"the {len(trials)} published trials of {cell.model}'s {method(cell)} have mean training losses of {span(losses, 3)} in "
        f"epochs 1 - {BLOCK}, and mean test accuracies of {span(middle, 2)} in epochs 51 - 60 and {span(last, 2)} in the last ten"
    )


def second_peak(trial: Trial) -> str:
    """The highest training loss of epochs 10 to 30."""
    epoch = 10 + int(trial.train_loss[9:30].argmax())
    return f"{trial.train_loss[epoch - 1]:.2f} in epoch {epoch}"


def draw(path: Path) -> None:
    """Training loss and test accuracy per epoch: lines are ours, bands and dotted lines the published trials."""
    trials: list[Trial] = read_csv(EPOCHS)
    groups = [Group(trial.cell, f"trial {trial.number}", (trial,)) for trial in trials]
    series = series_of(groups, list(dict.fromkeys(trial.cell for trial in trials)), name=method)
    draw_curves([("", series, LOSS), ("", series, ACCURACY)], path, (".png",))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    print(f"{table()}\n\nFor comparison: {spread()}.")
    for trial in (trial for trial in read_csv(EPOCHS) if trial.epochs >= 30):
        found = [second_peak(one) for one in (*logged().get(trial.cell, ()), trial)]
        print(f"Second peak of {method(trial.cell)}'s training loss, logs and ours: {', '.join(found)}")
    draw(FOLDER / "convergence")
