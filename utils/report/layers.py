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

from utils.errors import BadInput, first_line, reason
from utils.files.checks import is_name
from utils.files.text import counted, shown
from utils.files.untrusted import MIB, read_limited
from utils.logs.layers_csv import LayerRow
from utils.report.logs import NUMBER

LIMIT = 16 * MIB  # of the file; 112 layers in 200 epochs take 2
LONGEST_LAYER_NAME = 1000  # characters of a layer's
COUNT = re.compile(r"[1-9]\d{0,11}", re.ASCII)
VALUE = re.compile(f"(?:{NUMBER.decode()})?", re.ASCII)  # or nothing
SHARES = ("flipped", "flipped_since_start", "oscillating")
RANGES = {**dict.fromkeys(SHARES, (0.0, 1.0)), "cosine": (-1.0, 1.0)}  # of all other columns: not negative
COLUMNS = LayerRow._fields[3:]
VALUES = re.compile(",".join([VALUE.pattern] * len(COLUMNS)), re.ASCII)


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
    weights: str
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
        data = read_limited(path, LIMIT)
        whole = data[: data.rfind(b"\n") + 1]
        if over and whole != data:
            raise ValueError("its last row is cut off: it does not end with a newline")
        rows = list(_rows(whole.decode(), epochs, over))
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
        if len(fields) != len(LayerRow._fields):
            raise ValueError(f"row {number} has {counted(len(fields), 'field')}, not {len(LayerRow._fields)}")
        epoch, layer, weights, *values = fields
        _require_count(number, "epoch", epoch)
        if int(epoch) > epochs:
            if over:
                raise ValueError(f"row {number} is of epoch {epoch}, and the run has {epochs}")
            return
        if not VALUES.fullmatch(",".join(values)):
            column, text = next(pair for pair in zip(COLUMNS, values, strict=True) if not VALUE.fullmatch(pair[1]))
            raise ValueError(f"row {number}: {column} is {shown(text)}, not a number")
        yield _Row(int(epoch), layer, weights, [float(value) if value else math.nan for value in values])


def _require_count(number: int, name: str, text: str) -> None:
    if not COUNT.fullmatch(text):
        raise ValueError(f"row {number}: {name} is {shown(text)}, not a whole number of at least 1")


def _table(rows: list[_Row], epochs: int) -> LayerTable:
    first = rows[0].epoch
    layers = [row[1:3] for row in rows if row.epoch == first]
    for number, (layer, weights) in enumerate(layers, start=2):
        _require_count(number, "weights", weights)
        if not is_name(layer, LONGEST_LAYER_NAME):
            raise ValueError(f"row {number}: {shown(layer)} is not a name of at most {LONGEST_LAYER_NAME} printable characters")
    names, weights = zip(*layers, strict=True)
    if len(set(names)) < len(names):
        raise ValueError(f"epoch {first} has a layer twice")
    expected = [(epoch, *layer) for epoch in range(first, epochs + 1) for layer in layers]
    for number, (row, place) in enumerate(zip(rows, expected, strict=False), start=2):
        if row[:3] != place:
            of = "epoch {}, layer {}, weights {}"
            raise ValueError(f"row {number} is of {of.format(*map(shown, row[:3]))}, not of {of.format(*map(shown, place))}")
    if len(rows) != len(expected):
        raise ValueError(f"it has {counted(len(rows), 'row')}, not {len(expected)} for epochs {first} to {epochs}")
    columns = dict(zip(COLUMNS, np.array([row.values for row in rows]).T, strict=True))
    for name, values in columns.items():
        _require_range(name, values)
    shape = (-1, len(layers))
    return LayerTable(first, names, np.array(weights, dtype=float), {name: v.reshape(shape) for name, v in columns.items()})


def _require_range(column: str, values: np.ndarray) -> None:
    low, high = RANGES.get(column, (0.0, math.inf))
    right = np.isnan(values) | (np.isfinite(values) & (values >= low) & (values <= high))
    if not right.all():
        row = int(right.argmin())
        allowed = f"from {low:g} to {high:g}" if math.isfinite(high) else "of at least 0, and finite"
        raise ValueError(f"row {row + 2}: {column} is {values[row]:g}, not a number {allowed}")
