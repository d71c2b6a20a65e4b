"""Markdown tables."""

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[str], *rows: Iterable[str]) -> str:
    """Headings and rows; a bar within a field is escaped."""
    lines = [" | ".join(field.replace("|", r"\|").replace("\n", " ") for field in row) for row in (head, *rows)]
    return "\n".join([f"| {lines[0]} |", "|" + "---|" * len(head), *(f"| {line} |" for line in lines[1:])])
