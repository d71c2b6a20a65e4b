"""layers.csv of a run's folder, read strictly: what the recorder cannot have written is named; its means over all layers."""

import csv
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import BadInput, first_line
from utils.files.text import shown
from utils.files.untrusted import MIB, read_limited, reason
from utils.layers_csv import LayerRow
from utils.report.logs import NUMBER
from utils.run.fields import is_name

LIMIT = 16 * MIB  # of the file; 112 layers in 200 epochs take 2
LONGEST_NAME = 1000  # characters of a layer's
COUNT = re.compile(r"[1-9]\d{0,11}", re.ASCII)
VALUE = re.compile(NUMBER.decode(), re.ASCII)
SHARES = ("flipped", "flipped_since_start", "oscillating")
RANGES = {**dict.fromkeys(SHARES, (0.0, 1.0)), "cosine": (-1.0, 1.0)}  # of all other columns: not negative
COLUMNS = LayerRow._fields[3:]


@dataclass(frozen=True, eq=False)
class LayerTable:
    """first: the epoch (from 1) of the first rows. names: of the layers (L). weights: how many each has, (L,).

    columns: of layers.csv -> values (E, L), a row per epoch; NaN where nothing is known.
    """

    first: int
    names: tuple[str, ...]
    weights: np.ndarray
    columns: Mapping[str, np.ndarray]

    def mean(self, column: str) -> np.ndarray:
        """Per epoch, from epoch 1 on, the mean over the layers where the value is known, weighted by their numbers of weights.

        NaN where it is known of no layer.
        """
        values = self.columns[column]
        known = ~np.isnan(values)
        weights = known * self.weights
        sums, totals = (np.where(known, values, 0) * weights).sum(axis=1), weights.sum(axis=1)
        means = np.divide(sums, totals, out=np.full(len(sums), np.nan), where=totals > 0)
        return np.concatenate([np.full(self.first - 1, np.nan), means])


class _Row(NamedTuple):
    epoch: int
    layer: str
    weights: int
    values: list[float]


def read_layers(path: Path, epochs: int, over: bool) -> LayerTable | None:
    """The first `epochs` epochs of a layers.csv; None where there is no such file, or no row in it.

    over: the run is done, and the file has no rows beyond them; otherwise these are ignored.
    Raises BadInput, naming file and row, for other columns, a row of another form, a value out of its range or not finite, epochs
    that do not follow one another up to the last, and layers that are not the same in all epochs.
    """
    if not os.path.lexists(path):
        return None
    try:
        text = read_limited(path, LIMIT).decode()
        whole = text[: text.rfind("\n") + 1]
        if over and whole != text:
            raise ValueError("its last row is cut off: it does not end with a newline")
        rows = list(_rows(whole, epochs, over))
        return _table(rows, epochs) if rows else None
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {reason(error)}") from None
    except (ValueError, csv.Error) as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None


def _rows(text: str, epochs: int, over: bool) -> Iterator[_Row]:
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    head = next(lines, None)
    if head is None:
        if over:
            raise ValueError("it is empty")
        return
    if tuple(head) != LayerRow._fields:
        raise ValueError(f"its columns are {shown(','.join(head))}, not {','.join(LayerRow._fields)}")
    for number, fields in enumerate(lines, start=2):
        try:
            row = _row(fields)
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None
        if row.epoch > epochs:
            if over:
                raise ValueError(f"row {number} is of epoch {row.epoch}, and the run has {epochs}")
            return
        yield row


def _row(fields: list[str]) -> _Row:
    if len(fields) != len(LayerRow._fields):
        raise ValueError(f"it has {len(fields)} fields, not {len(LayerRow._fields)}")
    epoch, layer, weights, *values = fields
    for name, text in (("epoch", epoch), ("weights", weights)):
        if not COUNT.fullmatch(text):
            raise ValueError(f"{name} is {shown(text)}, not a whole number of at least 1")
    if not is_name(layer, LONGEST_NAME):
        raise ValueError(f"layer is {shown(layer)}, not a name of at most {LONGEST_NAME} printable characters")
    return _Row(int(epoch), layer, int(weights), [_value(*pair) for pair in zip(COLUMNS, values, strict=True)])


def _value(column: str, text: str) -> float:
    """NaN for an empty field."""
    if not text:
        return math.nan
    low, high = RANGES.get(column, (0.0, math.inf))
    value = float(text) if VALUE.fullmatch(text) else math.nan
    if not (math.isfinite(value) and low <= value <= high):
        allowed = f"from {low:g} to {high:g}" if math.isfinite(high) else "of at least 0, and finite"
        raise ValueError(f"{column} is {shown(text)}, not a number {allowed}")
    return value


def _table(rows: list[_Row], epochs: int) -> LayerTable:
    first = rows[0].epoch
    layers = [(row.layer, row.weights) for row in rows if row.epoch == first]
    names, weights = zip(*layers, strict=True)
    if len(set(names)) < len(names):
        raise ValueError(f"epoch {first} has a layer twice")
    expected = [(epoch, *layer) for epoch in range(first, epochs + 1) for layer in layers]
    for number, (row, place) in enumerate(zip(rows, expected, strict=False), start=2):
        if row[:3] != place:
            of = "epoch {}, layer {} with {} weights"
            raise ValueError(f"row {number} is of {of.format(*map(shown, row[:3]))}, not of {of.format(*map(shown, place))}")
    if len(rows) != len(expected):
        raise ValueError(f"it has {len(rows)} rows, not {len(expected)} for epochs {first} to {epochs}")
    values = np.array([row.values for row in rows]).reshape(-1, len(layers), len(COLUMNS))
    return LayerTable(first, names, np.array(weights, dtype=float), dict(zip(COLUMNS, np.moveaxis(values, 2, 0), strict=True)))
