"""Texts and tables as Markdown."""

import re
from collections.abc import Iterable, Sequence

from utils.files.text import printable

MARKUP = str.maketrans({character: f"\\{character}" for character in "\\|<[]`&~"})
EMPHASIS = re.compile(
    r"(?<![A-Za-z0-9])[*_]|[*](?![\s,]|$)|_(?![A-Za-z0-9])"
)  # a star after a word and before a blank opens none
START = re.compile(r"^(\d*)([-+=>#.)])")  # what would begin a list, a rule, a quotation or a heading


def markdown_text(text: str) -> str:
    """A text that Markdown shows as it is: no HTML, link, picture, code or emphasis, no end of a table's field; on one line."""
    escaped = printable(" ".join(text.splitlines())).translate(MARKUP).replace("://", r":\//")
    return EMPHASIS.sub(r"\\\g<0>", escaped)


def markdown_paragraph(text: str) -> str:
    """A text that is a paragraph or a list's item: as `markdown_text`, and it begins no heading, list, rule or quotation."""
    text = markdown_text(text).strip()
    return START.sub(lambda found: f"{found[1]}\\{found[2]}", text)


def markdown_table(head: Sequence[str], *rows: Iterable[str]) -> str:
    """Headings and rows, their fields as plain text."""
    lines = [" | ".join(map(markdown_text, row)) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines[1:])])
