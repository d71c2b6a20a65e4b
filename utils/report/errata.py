"""The errata of the published tables, as a section of the report."""

from collections.abc import Sequence

from utils.report.document import Section, markdown
from utils.report.formatting import Table, mean_variance
from utils.report.published import ERRATA_KINDS, Erratum, printed
from utils.tables.cells import Cell

WITH_VALUES = ("mean", "label", "page")  # kinds of errata with a printed and a logged value


def errata_section(errata: Sequence[Erratum]) -> Section:
    """What the kinds of errata mean, then the errata."""
    names = ("kind", "where", "finding", "printed", "logs")
    records = [dict(zip(names, row, strict=True)) for row in errata_rows(errata)]
    table = Table("errata", "Errata of the published tables", records, {name: lambda r, name=name: r[name] for name in names})
    return Section(table.name, table.title, items=[f"{kind}: {words}" for kind, words in ERRATA_KINDS.items()], table=table)


def errata_markdown(errata: Sequence[Erratum]) -> str:
    """The same as Markdown."""
    return markdown([errata_section(errata)])


def errata_rows(errata: Sequence[Erratum]) -> list[tuple[str, ...]]:
    """Rows (kind, cells, finding, printed, logs).

    A misprinted value has a row of its own. The other errata of one net with the same finding share a row without values.
    """
    shared: dict[tuple[str, str, str], list[Erratum]] = {}
    for erratum in errata:
        where = str(erratum.cell) if erratum.kind in WITH_VALUES else erratum.model
        shared.setdefault((erratum.kind, where, erratum.finding), []).append(erratum)
    rows = []
    for (kind, where, finding), members in shared.items():
        first = members[0]
        if kind in WITH_VALUES:
            values = (first.printed_mean, first.printed_variance), (first.logs_mean, first.logs_variance)
            rows.append((kind, where, finding, *(mean_variance(*value) for value in values)))
        else:
            rows.append((kind, _cells_in_words([erratum.cell for erratum in members]), finding, "", ""))
    return rows


def _cells_in_words(cells: Sequence[Cell]) -> str:
    """Cells of one net, which is named once; a part that is "all" is left out."""
    net, *others = (
        " ".join(part for part in parts if part != "all")
        for parts in (cells[0][:2], *((cell.quantizer, cell.optimizer, cell.backward) for cell in cells))
    )
    listed = ", ".join(words or "all" for words in others)
    if len(cells) == sum(cell[:2] == cells[0][:2] for cell in printed()):
        listed = f"all {len(cells)} cells"
    return f"{net}: {listed}" if net else listed
