"""The text files of a run's folder, read strictly: a row that the recorder cannot have written is named."""

import re
from pathlib import Path

import numpy as np

from utils.errors import BadInput, reason
from utils.files.untrusted import MIB, read_limited

NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?"
ROW = re.compile(rb"\d{1,12}, *" + NUMBER)
VALUE = re.compile(NUMBER)
LOG_LIMIT = 64 * MIB  # 3 million rows
ITERATION, EPOCH = 0, 1  # the count of the first row
SHOWN = 40  # characters of a bad row in a message


def read_log(path: Path, first: int, rows: int | None = None, percent: bool = False, counted: bool = True) -> np.ndarray:
    """The values of rows "count, value" whose counts are first, first + 1, ...; empty if the file is absent or empty.

    rows: reads so many rows at most; what follows them is ignored. percent: the values must lie within 0 and 100. counted: if
    False, every row may also be a value alone, as in published folders. Raises BadInput, naming file and row, for a row of
    another form, another count, a value that is not finite or not within 0 and 100, and a last row without a newline; and for a
    file of more than 64 MiB.
    """
    try:
        data = read_limited(path, LOG_LIMIT) if path.is_file() else b""
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {reason(error)}") from None
    *lines, cut_off = data.split(b"\n")
    if rows is not None and len(lines) >= rows:
        lines, cut_off = lines[:rows], b""
    if not counted and lines and all(map(VALUE.fullmatch, lines)):
        lines = [b"%d, %s" % (first + index, line) for index, line in enumerate(lines)]
    formed = next((index for index, line in enumerate(lines) if not ROW.fullmatch(line)), len(lines))
    counts, values = (
        np.loadtxt([line.decode() for line in lines[:formed]], delimiter=",", ndmin=2).T if formed else np.empty((2, 0))
    )
    right = np.isfinite(values) & (counts == first + np.arange(formed))
    if percent:
        right &= (values >= 0) & (values <= 100)
    bad = int(right.argmin()) if not right.all() else formed
    if bad < len(lines):
        value = "a number from 0 to 100" if percent else "a finite number"
        raise BadInput(f'{path}: row {bad + 1} is {_quoted(lines[bad])}, not "{first + bad}, " and {value}')
    if cut_off:
        raise BadInput(f"{path}: row {len(lines) + 1}, {_quoted(cut_off)}, is cut off: it does not end with a newline")
    return values


def _quoted(row: bytes) -> str:
    text = row.decode(errors="replace")
    return ascii(text if len(text) <= SHOWN else text[:SHOWN] + "...")
