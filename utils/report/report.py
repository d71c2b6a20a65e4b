"""The report on runs, beside the published numbers: its sections, and its files."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from utils.errors import BadInput
from utils.files.text import counted
from utils.report.against_ste import against_ste_table
from utils.report.csv_files import write_csv
from utils.report.document import Section, markdown
from utils.report.errata import errata_section
from utils.report.formatting import Table
from utils.report.gallery import CURVES_NOTE, FLIPS_NOTE, curves, flips, overviews
from utils.report.methods import unknown_methods
from utils.report.published import FOLDER as PUBLISHED
from utils.report.published import Printed, errata, is_published, printed, published_settings
from utils.report.reading import find_trials
from utils.report.recorded import settings_section
from utils.report.report_folder import move_report
from utils.report.sweeps import sweeps_table
from utils.report.tables import claims_table, details, fairness_table, paper_table, runs_table
from utils.report.trials import Group, LeftOut, Trial, group_trials
from utils.tables.cells import Cell

LOOKED = "test accuracy was evaluated after every epoch, so that their best epochs were chosen on the test set."


@dataclass(frozen=True, eq=False)
class Report:
    """Trials and their groups. left_out: the trials that are in no group, with the reason."""

    trials: list[Trial]
    groups: list[Group]
    left_out: list[LeftOut]

    @cached_property
    def published(self) -> dict[Cell, list[Group]]:
        """Our groups of the published cells that have as many epochs as the published runs."""
        groups = [group for group in self.groups if is_published(group.trials[0])]
        return {cell: found for cell in printed() if (found := [group for group in groups if group.cell == cell])}

    @cached_property
    def others(self) -> list[Group]:
        """Our other groups."""
        return [group for group in self.groups if not is_published(group.trials[0])]

    def shown(self, table: int) -> dict[Cell, Printed]:
        """The cells of a paper's table for the nets of which we have runs."""
        nets = {cell.model for cell in self.published}
        return {cell: value for cell, value in printed().items() if value.table == table and cell.model in nets}

    @property
    def tables(self) -> list[Table]:
        """The tables that have rows."""
        return [table for table in self._with_notes if table.records]

    @cached_property
    def _with_notes(self) -> list[Table]:
        """The tables that have rows, and those without that have something to say in their notes."""
        found = []
        for number in (1, 2):
            groups = [group for cell in self.shown(number) for group in self.published.get(cell, ())]
            found.append(paper_table(number, self.shown(number), self.published))
            found.append(details(f"table{number}_details", f"Table {number}, ours in detail", groups))
        found += [runs_table(self.trials, self.left_out, self.groups)]
        if any(len(group.trials) > 1 for group in self.others):
            found.append(details("other_cells", "Other cells, over their trials", self.others))
        found += [sweeps_table(self.groups), against_ste_table(self.groups)]
        found += [claims_table(self.groups), fairness_table(self.groups)]
        return [table for table in found if table.records or table.note]

    @cached_property
    def sections(self) -> list[Section]:
        """The whole report. A section with pictures of another kind is one more line here."""
        found = [self._head()]
        for table in self._with_notes:
            number = {"table1": 1, "table2": 2}.get(table.name)
            found.append(Section.of_table(table, overviews(number, self.published) if number else ()))
        if pictures := curves(self.published, self.others, self.left_out):
            found.append(Section("curves", "Curves", CURVES_NOTE, pictures=pictures))
        if pictures := flips(self.published, self.others, self.left_out):
            found.append(Section("layers", "Flips and gradients", FLIPS_NOTE, pictures=pictures))
        if self.published:
            found.append(errata_section(errata()))
        if any(trial.recorded for trial in self.trials):
            found.append(settings_section(self.trials, self.left_out))
        return found

    def markdown(self, with_pictures: bool = False) -> str:
        """The report as Markdown. with_pictures: shows the pictures that lie in the same folder as the text."""
        head, *sections = self.sections
        return "\n\n".join([markdown([head], level=1), markdown(sections, with_pictures=with_pictures)])

    def _head(self) -> Section:
        taken = sum(len(group.trials) for group in self.groups)
        makers = Counter(trial.made_by or "no record of device and versions" for trial in self.trials)
        unvalidated = sum(not trial.validated for trial in self.trials)
        has = "has" if len(self.trials) == 1 else "have"
        looked = (
            f" {unvalidated} of {counted(len(self.trials), 'run')} {has} no validation images: {LOOKED}" if unvalidated else ""
        )
        note = f"{counted(taken, 'trial')} counted, {len(self.left_out)} left out.{looked} Made by:"
        items = [f"{counted(count, 'run')}: {maker}" for maker, count in makers.most_common()]
        return Section("results", "Results", note, items)

    def write(self, folder: Path) -> None:
        """Writes report.md and report.html, the pictures, each table as CSV and LaTeX, errata.csv, and runs.csv.xz.

        runs.csv.xz has the epochs of the counted trials. The files of an earlier report in the folder are removed. Raises
        BadInput if the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=folder, prefix=".report-") as written:
                self._write(Path(written))
                move_report(Path(written), folder)
        except OSError as error:
            raise BadInput(f"--out {folder}: {error}") from None

    def _write(self, folder: Path) -> None:
        from utils.report.page import page, save_pictures  # jinja2 and matplotlib, which only the files need

        (folder / "report.md").write_text(self.markdown(with_pictures=True) + "\n", encoding="utf-8")
        for table in self.tables:
            table.write(folder)
        shutil.copyfile(PUBLISHED / "errata.csv", folder / "errata.csv")
        write_csv((trial for group in self.groups for trial in group.trials), folder / "runs.csv.xz")
        save_pictures(self.sections, folder)
        (folder / "report.html").write_text(page(self.sections, folder), encoding="utf-8")


def make_report(roots: Sequence[str | Path]) -> tuple[Report, list[str]]:
    """The report on all runs below the roots, and a line per file that could not be read, and for methods that are unknown.

    Raises BadInput, with all these lines in one, if there is no run at all.
    """
    trials, problems = find_trials(roots)
    if not trials:
        raise BadInput("; ".join(problems))
    groups, left_out = group_trials(trials, published_settings)
    return Report(trials, groups, left_out), problems + unknown_methods(trial.cell.backward for trial in trials)
