"""A table of records, as Markdown, LaTeX and CSV."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
LATEX = str.maketrans(
    {character: rf"\{character}" for character in "#$%&_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$"}
)


@dataclass(frozen=True)
class Table:
    """Records and how to read them. columns: heading -> a record's text in that column; the CSV file holds the records whole."""

    name: str
    title: str
    records: Sequence[Record]
    columns: Mapping[str, Callable[[Record], str]]
    note: str = ""

    def rows(self) -> list[list[str]]:
        """The headings and a row per record; a column without any text is omitted."""
        rows = [list(self.columns), *([show(record) for show in self.columns.values()] for record in self.records)]
        kept = [k for k in range(len(self.columns)) if any(row[k] for row in rows[1:])]
        return [[row[k] for k in kept] for row in rows]

    def markdown(self) -> str:
        """Title, note and rows."""
        return "\n\n".join(part for part in (f"## {self.title}", self.note, markdown_table(*self.rows())) if part)

    def latex(self) -> str:
        """A tabular environment with the rules of LaTeX's own \\hline, so that it needs no package."""
        lines = [" & ".join(cell.translate(LATEX) for cell in row) + r" \\" for row in self.rows()]
        head, *body = lines
        begin = rf"\begin{{tabular}}{{{'l' * len(self.rows()[0])}}}"
        return "\n".join([f"% {self.title}", begin, r"\hline", head, r"\hline", *body, r"\hline", r"\end{tabular}", ""])

    def write(self, folder: Path) -> None:
        """<name>.csv and <name>.tex into the folder."""
        write_records(self.records, folder / f"{self.name}.csv")
        (folder / f"{self.name}.tex").write_text(self.latex())


def write_records(records: Sequence[Record], path: Path) -> None:
    """A CSV file; NaN is an empty field, numbers have 8 significant digits."""
    with open(path, "w", newline="") as file:
        names = dict.fromkeys(name for record in records for name in record)
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in record.items()} for record in records)


def markdown_table(head: Sequence[str], *rows: Iterable[str]) -> str:
    """Headings and rows; a bar within a field is escaped."""
    lines = [" | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in row) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines[1:])])


def number(value: float, digits: int = 3) -> str:
    """To so many digits; "" for NaN."""
    return "" if value != value else f"{value:.{digits}f}"


def mean_variance(mean: float, variance: float) -> str:
    """As the paper prints it: mean (variance); "" for NaN."""
    return f"{mean:.3f} ({variance:.3f})" if mean == mean else ""


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else f"{value:.8g}"
    return value
