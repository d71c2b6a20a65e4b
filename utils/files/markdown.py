"""Texts and tables as Markdown."""

import re
from collections.abc import Iterable, Sequence

from utils.files.text import printable

MARKUP = str.maketrans({character: f"\\{character}" for character in "\\|<[]`&"})
START = re.compile(r"^(\d*)([-+=>#.)])")  # what would begin a list, a rule, a quotation or a heading


def markdown_text(text: str) -> str:
    """A text that Markdown shows as it is: no HTML, link, picture or code, and no end of a table's field; on one line."""
    return printable(" ".join(text.splitlines())).translate(MARKUP).replace("://", r":\//")


def markdown_paragraph(text: str) -> str:
    """A text that is a paragraph or a list's item: as `markdown_text`, and it begins no heading, list, rule or quotation."""
    text = markdown_text(text).strip()
    return START.sub(lambda found: f"{found[1]}\\{found[2]}", text)


def markdown_table(head: Sequence[str], *rows: Iterable[str]) -> str:
    """Headings and rows, their fields as plain text."""
    lines = [" | ".join(map(markdown_text, row)) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines[1:])])
