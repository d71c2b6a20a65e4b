"""The report's description: sections with a table and pictures, and folds. Markdown is made of it here, the page in page.py."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from utils.files.markdown import markdown_paragraph, markdown_table, markdown_text
from utils.report.anchors import picture_anchor
from utils.report.formatting import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, in a sentence. draw: makes it, which takes a second; name: of its files, without a suffix.

    key: by which tables link to it, where that is not the name.
    """

    name: str
    caption: str
    draw: Callable[[], "Figure"]
    key: str = ""

    @property
    def anchor(self) -> str:
        """The id of its element on the page."""
        return picture_anchor(self.key or self.name)


@dataclass(frozen=True)
class Fold:
    """What the page shows once its title is clicked: names with their values, then folds within it. anchor: its id, or ""."""

    title: str
    values: Mapping[str, str] = field(default_factory=dict)
    folds: Sequence["Fold"] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the report, in this order: title, paragraph, list, table, pictures, folds; each may be missing but the title.

    name: the id of its element on the page. Folds are shown on the page alone.
    """

    name: str
    title: str
    note: str = ""
    items: Sequence[str] = ()
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    folds: Sequence[Fold] = ()

    @classmethod
    def of_table(cls, table: Table, pictures: Sequence[Picture] = ()) -> "Section":
        """A table under its own title and note; without rows, the note alone."""
        return cls(table.name, table.title, table.note, table=table if table.records else None, pictures=pictures)

    def anchors(self) -> Iterator[str]:
        """The ids of the page's elements that fields of tables may link to."""
        yield from (picture.anchor for picture in self.pictures)
        yield from (fold.anchor for fold in self.folds if fold.anchor)


def markdown(sections: Iterable[Section], level: int = 2, with_pictures: bool = False) -> str:
    """The sections as Markdown, without those that consist of folds. level: of their titles.

    with_pictures: shows <name>.png of the folder that the text is in; else sections that consist of pictures are left out.
    """
    parts = []
    for section in sections:
        body = [markdown_paragraph(section.note), "\n".join(f"- {markdown_paragraph(item)}" for item in section.items)]
        body += [markdown_table(*section.table.rows())] if section.table else []
        if with_pictures:
            body += [f"![{markdown_text(p.caption)}]({p.name}.png)\n\n{markdown_paragraph(p.caption)}" for p in section.pictures]
        if section.folds or (section.pictures and not section.table and not with_pictures):
            continue
        parts += [f"{'#' * level} {markdown_text(section.title)}", *filter(None, body)]
    return "\n\n".join(parts)
