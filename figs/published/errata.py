#!/usr/bin/env python3
"""Finds the places where the published tables, logs and texts disagree.

    python figs/published/errata.py

Writes errata.csv, which the report reads, and the section on errata of README.md, both beside this file.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from utils.report.csv_files import read_frame  # noqa: E402
from utils.report.errata import errata_markdown  # noqa: E402
from utils.report.formatting import mean_variance, write_records  # noqa: E402
from utils.report.published import ERRATA_KINDS, Erratum, logged, logged_statistics, printed  # noqa: E402
from utils.report.statistics import Statistics, statistics  # noqa: E402
from utils.report.trials import Trial  # noqa: E402
from utils.tables.cells import Cell  # noqa: E402

HALF_DIGIT = 0.0005 + 1e-6  # half of the last printed digit
STEEP = 10  # the first epochs, whose steep curve says nothing about the learning rate
SWAPPED_ON_THE_PAGE = [(Cell("ResNet20", "CIFAR10", quantizer, "LSTMFC", "Adam"), "FC-Grad") for quantizer in ("dorefa", "BWN")]
"""Pairs of rows, (cell, the other backward), whose values stand the other way round on the authors' own results page."""
DOCUMENTED = (
    (Cell("all", "all", "all", "STE", "Adam"), "the weight decay is 0; with learned gradients and Adam it is 5e-4"),
    (Cell("all", "all", "all", "MultiFC", "all"), "M has 3 linear layers; the paper's text says 2"),
    (Cell("ResNet20", "CIFAR10", "all", "all", "all"), "an epoch has 390 iterations; in all other runs it has 391"),
    (Cell("ResNet20", "CIFAR10", "all", "FC-Grad", "all"), "M starts as STE; in all other runs it starts at random"),
)


class LoggedSource(NamedTuple):
    """The logged trials that give a printed value: the first `count` trials of `cell`, if `shift` is added to their mean."""

    cell: Cell
    count: int
    shift: int
    statistics: Statistics


def logged_source(cell: Cell) -> LoggedSource | None:
    """The logged trials whose mean and variance are a cell's printed ones to the last digit; None if there are none.

    Tried in this order: the mean as it is, then shifted by a whole number; the cell's own trials, then those of the other methods
    with the same net, quantizer and optimizer; all of these trials, then the first n - 1, n - 2, ...
    """
    value = printed()[cell]
    candidates = [cell, *(other for other in logged() if other != cell and other._replace(backward=cell.backward) == cell)]
    for shifted in (False, True):
        for candidate in candidates:
            trials = logged().get(candidate, ())
            for count in range(len(trials), 0, -1):
                found = statistics(trials[:count])
                shift = round(value.mean - found.mean)
                errors = abs(value.mean - shift - found.mean), abs(value.variance - found.variance)
                if max(errors) <= HALF_DIGIT and (shift != 0) == shifted:
                    return LoggedSource(candidate, count, shift, found)
    return None


def first_epoch_after_drop(trials: Sequence[Trial]) -> int:
    """The first epoch, counted from 1, at a lower learning rate: there the mean training accuracy of the trials breaks most.

    The break is where two curves a + b log(epoch), one fitted before it and one from it on, leave the least squared error.
    """
    acc = np.mean([trial.train_acc for trial in trials], axis=0)[STEEP:]
    epochs = np.arange(len(acc)) + STEEP + 1.0

    def error(part: slice) -> float:
        design = np.stack([np.ones_like(epochs[part]), np.log(epochs[part])], axis=1)
        fit = design @ np.linalg.lstsq(design, acc[part], rcond=None)[0]
        return float(((acc[part] - fit) ** 2).sum())

    breaks = range(5, len(acc) - 4)  # at least 5 epochs on either side
    return int(epochs[min(breaks, key=lambda at: error(slice(at)) + error(slice(at, None)))])


def find_errata() -> list[Erratum]:
    """All errata, by kind and in the order of the tables."""
    documented = [Erratum("documented", *cell, finding) for cell, finding in DOCUMENTED]
    found = [*misprinted_values(), *late_schedules(), *values_on_the_results_page(), *drops_of_table_4(), *documented]
    return sorted(found, key=lambda erratum: list(ERRATA_KINDS).index(erratum.kind))


def misprinted_values() -> list[Erratum]:
    """Printed values that are off by a whole number, another row's, or not computed from all logged trials."""
    found = []
    usual = Counter(len(trials) for trials in logged().values()).most_common(1)[0][0]
    for cell, value in printed().items():
        trials, source = logged().get(cell, ()), logged_source(cell)
        logs = source.statistics if source else logged_statistics(cell)
        numbers = (value.mean, value.variance, *((logs.mean, logs.variance) if logs else ()))
        if source is None:
            few = f"{len(trials)} of {usual} trials are logged, which do not give the printed value"
            found.append(Erratum("trials", *cell, few if trials else "no trial is logged", *numbers))
            continue
        count = len(logged()[source.cell])
        pooled = f" (trials 1-{source.count})" if source.count < count else ""
        if source.shift:
            error = f"{abs(source.shift):.3f} too {'low' if source.shift < 0 else 'high'}"
            found.append(Erratum("mean", *cell, f"printed {error}{pooled}", *numbers))
        if source.cell != cell:
            found.append(Erratum("label", *cell, f"the value of {source.cell.backward}{pooled}", *numbers))
        if pooled:
            found.append(Erratum("trials", *cell, f"trials 1-{source.count} are pooled, {count} are logged", *numbers))
    return found


def late_schedules() -> list[Erratum]:
    """Cells whose learning rate first drops later than that of most: nearer to the second drop of the usual schedule."""
    first = {cell: first_epoch_after_drop(trials) for cell, trials in logged().items()}
    usual = int(np.median(list(first.values())))
    late = {cell: first[cell] for cell in printed() if cell in first and first[cell] > 1.5 * usual}
    words = f"the learning rate first drops in epoch {np.median(list(late.values())):.0f}; elsewhere in epoch {usual}"
    return [Erratum("schedule", *cell, words) for cell in late]


def values_on_the_results_page() -> list[Erratum]:
    """Cells for which the authors' results page prints another row's value, and which value the logged trials are nearer to."""
    found = []
    for one, backward in SWAPPED_ON_THE_PAGE:
        for cell, other in ((one, one._replace(backward=backward)), (one._replace(backward=backward), one)):
            paper, page, logs = printed()[cell], printed()[other], logged_statistics(cell)
            words = f"the results page prints {mean_variance(page.mean, page.variance)}, the paper's value of {other.backward}; "
            if logs is None:
                found.append(Erratum("page", *cell, words + "no trial is logged", paper.mean, paper.variance))
                continue
            mean = nearer(paper.mean, page.mean, logs.mean)
            variance = nearer(paper.variance, page.variance, logs.variance)
            words += (
                f"of the {logs.n} logged trials the mean is nearer to the {mean}, the variance to the {variance}, but the two "
                f"means differ by only {abs(paper.mean - page.mean):.3f}, and the logged mean's standard error is "
                f"{logs.standard_error:.3f}"
            )
            found.append(Erratum("page", *cell, words, paper.mean, paper.variance, logs.mean, logs.variance))
    return found


def nearer(paper: float, page: float, logs: float) -> str:
    """Whose value the logged one is nearer to."""
    return "paper's" if abs(paper - logs) < abs(page - logs) else "page's"


def drops_of_table_4() -> list[Erratum]:
    """Accuracy drops of Table 4, which are smaller than those of Table 1's best learned gradient and of the best logged epoch."""
    found = []
    for row in read_frame(HERE / "published_table4.csv", {"drop": float}).itertuples():
        learned = {c: value for c, value in printed().items() if c[:2] == (row.network, row.dataset) and c.backward != "STE"}
        cell, value = max(learned.items(), key=lambda item: item[1].mean)
        best = max(trial.test_acc.max() for other in learned for trial in logged().get(other, ()))
        full = value.full_precision
        if abs(full - value.mean - row.drop) > 0.005 + 1e-6:  # half of the drop's last digit
            words = (
                f"Table 4 prints a drop of {row.drop:.2f}; by Table 1 it is {full:.2f} - {value.mean:.3f} = "
                f"{full - value.mean:.3f} ({cell.method}), by the best epoch of any logged trial of a learned gradient "
                f"{full:.2f} - {best:.2f} = {full - best:.2f}"
            )
            found.append(Erratum("drop", row.network, row.dataset, "all", "all", "all", words))
    return found


def write(folder: Path) -> None:
    """Writes errata.csv, and the section on errata at the end of README.md, into the folder."""
    errata = find_errata()
    write_records([erratum._asdict() for erratum in errata], folder / "errata.csv")
    readme, section = folder / "README.md", errata_markdown(errata)
    readme.write_text(readme.read_text().partition(section.splitlines()[0])[0] + section + "\n")


if __name__ == "__main__":
    argparse.ArgumentParser(description="Writes errata.csv and the section on errata of README.md beside this file.").parse_args()
    write(HERE)
