"""Validation in the report's tables: test accuracy at the best validation epoch, in columns that are there where a run has it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.report.formatting import Record, measured, number
from utils.report.statistics import Statistics

AT_BEST = "at best validation"  # the column's heading
AT_BEST_NOTE = (
    f"{AT_BEST}: test accuracy at the first epoch with the best validation accuracy, mean over the trials; in brackets, the "
    "value of each trial."
)


def validation_numbers(found: Statistics | None) -> dict[str, Any]:
    """What a record says of a group's validation; empty without validation images."""
    if found is None or not found.at_best_val:
        return {}
    each = ", ".join(f"{value:.2f}" for value in found.at_best_val)
    return {"best_val": found.best_val, "at_best_val": float(np.mean(found.at_best_val)), "at_best_val_of_each": each}


def at_best(record: Record) -> str:
    """The column's text: the mean, and each trial's value where there are several; "" without validation images."""
    if "at_best_val" not in record:
        return ""
    each = record.get("at_best_val_of_each", "")
    return measured(record["at_best_val"], number(record["at_best_val"], 2)) + (f" ({each})" if "," in each else "")


def with_note(note: str, records: Sequence[Record]) -> str:
    """A table's note, and what the column says where there is one; "" for a table without records."""
    validated = any("at_best_val" in record for record in records)
    return " ".join([note, AT_BEST_NOTE] if validated else [note]) if records else ""
