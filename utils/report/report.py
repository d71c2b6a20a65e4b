"""The report on runs, beside the published numbers: as Markdown, and as files."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from utils.errors import BadInput
from utils.report.csv_files import write_csv
from utils.report.formatting import Table
from utils.report.published import FOLDER as PUBLISHED
from utils.report.published import Printed, errata, printed, published_settings
from utils.report.reading import find_trials
from utils.report.sweeps import sweeps_table
from utils.report.tables import (
    FAIRNESS_NOTE,
    claims_table,
    details,
    errata_markdown,
    fairness_table,
    method,
    paper_table,
    runs_table,
)
from utils.report.trials import Group, LeftOut, Trial, group_trials
from utils.report.verdicts import pairs
from utils.tables.cells import Cell
from utils.tabular import markdown_text

FIGURE_3 = ("ResNet20", "CIFAR10", "dorefa")  # the paper's Figure 3 has a panel for SGD and one for Adam


LOOKED = "test accuracy was evaluated after every epoch, so that their best epochs were chosen on the test set."


@dataclass(frozen=True, eq=False)
class Report:
    """Trials and their groups. left_out: the trials that are in no group, with the reason."""

    trials: list[Trial]
    groups: list[Group]
    left_out: list[LeftOut]

    @cached_property
    def published(self) -> dict[Cell, list[Group]]:
        """Our groups of the published cells."""
        return {cell: found for cell in printed() if (found := [group for group in self.groups if group.cell == cell])}

    @cached_property
    def others(self) -> list[Group]:
        """Our groups of no published cell."""
        return [group for group in self.groups if group.cell not in printed()]

    def shown(self, table: int) -> dict[Cell, Printed]:
        """The cells of a paper's table for the nets of which we have runs."""
        nets = {cell.model for cell in self.published}
        return {cell: value for cell, value in printed().items() if value.table == table and cell.model in nets}

    @cached_property
    def tables(self) -> list[Table]:
        """The tables that have rows."""
        found = []
        for number in (1, 2):
            groups = [group for cell in self.shown(number) for group in self.published.get(cell, ())]
            found.append(paper_table(number, self.shown(number), self.published))
            found.append(details(f"table{number}_details", f"Table {number}, ours in detail", groups))
        found += [runs_table(self.trials, self.left_out)]
        if any(len(group.trials) > 1 for group in self.others):
            found.append(details("other_cells", "Other cells, over their trials", self.others))
        found += [sweeps_table(self.groups), claims_table(self.groups), fairness_table(self.groups)]
        return [table for table in found if table.records]

    def markdown(self) -> str:
        """The whole report."""
        parts = ["# Results", self._head(), *(table.markdown() for table in self.tables)]
        if pairs(self.groups) and "fairness" not in (table.name for table in self.tables):
            parts.append(f"## Fairness\n\n{FAIRNESS_NOTE} There are none.")
        if self.published:
            parts.append(errata_markdown(errata()))
        return "\n\n".join(parts)

    def _head(self) -> str:
        counted = sum(len(group.trials) for group in self.groups)
        makers = Counter(trial.made_by or "no record of device and versions" for trial in self.trials)
        unvalidated = sum(not trial.validated for trial in self.trials)
        lines = [f"{counted} trial{'s' * (counted != 1)} counted, {len(self.left_out)} left out. Made by:\n"]
        lines += [f"- {count} run{'s' * (count > 1)}: {markdown_text(maker)}" for maker, count in makers.most_common()]
        if unvalidated:
            lines.append(f"\n{unvalidated} of {len(self.trials)} runs have no validation images: {LOOKED}")
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        """Writes report.md, each table as CSV and LaTeX, errata.csv, the epochs of the counted trials (runs.csv.xz) and pictures.

        Raises BadInput if the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=".report-") as written:  # each file is then moved into its place, so
                self._write(Path(written))  # that a link of its name is replaced, not followed
                for path in Path(written).iterdir():
                    path.replace(folder / path.name)
        except OSError as error:
            raise BadInput(f"--out {folder}: {error}") from None

    def _write(self, folder: Path) -> None:
        (folder / "report.md").write_text(self.markdown() + "\n", encoding="utf-8")
        for table in self.tables:
            table.write(folder)
        shutil.copyfile(PUBLISHED / "errata.csv", folder / "errata.csv")
        write_csv((trial for group in self.groups for trial in group.trials), folder / "runs.csv.xz")
        draw(self, folder)


def make_report(roots: Sequence[str | Path]) -> tuple[Report, list[str]]:
    """The report on all runs below the roots, and a line per file that could not be read.

    Raises BadInput, with all these lines in one, if there is no run at all.
    """
    trials, problems = find_trials(roots)
    if not trials:
        raise BadInput("; ".join(problems))
    groups, left_out = group_trials(trials, published_settings)
    return Report(trials, groups, left_out), problems


def draw(report: Report, folder: Path) -> None:
    """Draws the curves per net, quantizer and optimizer, Figure 3 and an overview per table.

    `curves` shows the runs that belong to no published cell, `left_out` those that are in no mean.
    """
    os.environ.pop("MPLBACKEND", None)  # matplotlib is not imported where this names what is not installed; here Agg draws
    from utils.report.pictures import Row, curve_panels, draw_curves, draw_overview, loss_panel, series_of

    def block(*key: str) -> tuple[list[Group], list[Cell]]:
        """Our groups and the published cells of a net, data set, quantizer and optimizer."""
        cells = [cell for cell in printed() if (*cell[:3], cell.optimizer) == key]
        return [group for cell in cells for group in report.published.get(cell, ())], cells

    for key in dict.fromkeys((*cell[:3], cell.optimizer) for cell in report.published):
        draw_curves([curve_panels(" ".join(key), series_of(*block(*key)))], folder / f"curves_{'_'.join(key)}")
    if any(cell[:3] == FIGURE_3 for cell in report.published):
        panels = [loss_panel(f"{' '.join(FIGURE_3)} {name}", series_of(*block(*FIGURE_3, name))) for name in ("SGD", "Adam")]
        draw_curves([panels], folder / "figure3")
    for table in (1, 2):
        if report.shown(table):
            cells = {cell: value for cell, value in printed().items() if value.table == table}
            rows = [Row(cell, value, report.published.get(cell, ())) for cell, value in cells.items()]
            draw_overview(f"Table {table}", rows, folder / f"table{table}")
    unfinished = [left.trial for left in report.left_out if left.trial.epochs and not left.repeated]
    alone = [Group(trial.cell, f"trial {trial.number}", (trial,)) for trial in unfinished]
    for name, groups in (("curves", report.others), ("left_out", alone)):
        several = len({group.cell[:2] for group in groups}) > 1
        if groups:
            draw_curves([curve_panels("", series_of(groups, name=full_name if several else method))], folder / name)


def full_name(cell: Cell) -> str:
    """Net, data set and method."""
    return f"{cell.model} {cell.dataset} {method(cell)}"
