"""Trials as CSV files with a row per epoch: read, compressed or not, and written."""

import csv
import lzma
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from utils.errors import BadInput, first_line, reason
from utils.files import strict_json
from utils.files.checks import MAX_NAME, is_name
from utils.files.text import printable, shown
from utils.files.untrusted import MIB, read_limited
from utils.report.labels import OTHER_FORM
from utils.report.trials import Trial
from utils.run.common_settings import with_precision
from utils.run.folder.fields import check_settings
from utils.tables.cells import Cell

CSV_SUFFIXES = (".csv", ".csv.xz")
CSV_LIMIT = 256 * MIB  # of a file, and of what it decompresses to
XZ_MEMORY = 128 * MIB  # xz -9 needs 65
SEPARATORS = (",", ";", "\t")
CURVES = ("test_acc", "train_loss", "train_acc")
MAX_LABEL = 2000  # characters of a data set's label, which has a file's name
SHOWN = 20  # columns that an error lists
VALIDATION = "val_acc"  # a column where a trial has validation images
PERCENTAGES = ("test_acc", "train_acc", VALIDATION)
TRIAL = (*Cell._fields, "trial")  # the columns that identify a trial
COLUMNS = (*TRIAL, "epoch", *CURVES, "seconds", "settings", "made_by", "state")


def read_frame(path: Path, types: Mapping[str, type]) -> pd.DataFrame:
    """A CSV file, compressed or not, with the columns of `types` converted and all others left as text.

    Its fields are separated by commas, semicolons or tabs, whichever the first line has most of; a byte-order mark is skipped.
    Text is converted by Python's own float and int, so that every written float is read back exactly. Raises BadInput with file
    and reason if the file is damaged, lacks one of the columns (then with those that it has), or has a column twice.
    """
    try:
        text = _text(path)
        head = text.partition("\n")[0]
        separator = max(SEPARATORS, key=head.count)
        names = next(csv.reader([head], delimiter=separator), [])
        if not names:
            raise ValueError("it is empty")
        if missing := [name for name in types if name not in names]:
            raise ValueError(_no_column(missing, names))
        if len(set(names)) < len(names):
            raise ValueError(f"it has a column twice: {_listed(names)}")
        with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):  # a first row that is too long
            frame = pd.read_csv(StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False)
        return frame.astype(dict(types))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {reason(error)}") from None
    except (EOFError, lzma.LZMAError, csv.Error, ValueError, OverflowError, pd.errors.ParserWarning) as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None


def _no_column(missing: Iterable[str], names: Sequence[str]) -> str:
    return f"it has no column {', '.join(missing)}; its columns are {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:MAX_NAME] for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _text(path: Path) -> str:
    """The file's text, decompressed and without a byte-order mark."""
    data = read_limited(path, CSV_LIMIT)
    if path.name.endswith(".xz"):
        data = _decompressed(data)
    text = data.decode("utf-8-sig")
    if "\0" in text:
        raise ValueError("it is not a text: it holds the character 0")
    return text


def _decompressed(data: bytes) -> bytes:
    decompressor, parts, size = lzma.LZMADecompressor(memlimit=XZ_MEMORY), [], 0
    while not decompressor.eof:
        part = decompressor.decompress(data, MIB)
        if not part and not decompressor.eof and decompressor.needs_input:
            raise EOFError("the compressed file ends too early")
        data, size = b"", size + len(part)
        if size > CSV_LIMIT:
            raise ValueError(f"it decompresses to more than {CSV_LIMIT // MIB} MiB")
        parts.append(part)
    return b"".join(parts)


def read_csv(path: Path) -> list[Trial]:
    """The trials of a .csv or .csv.xz file with a row per epoch.

    Columns: model, dataset, quantizer (or forward), backward, optimizer, trial, epoch (from 1), test_acc, train_loss, train_acc;
    if known also val_acc, seconds, and on a trial's first row settings (JSON), made_by and state (else: done). Epoch 1 begins a
    trial.
    Raises BadInput with file and reason.
    """
    types = dict.fromkeys(("trial", "epoch"), int) | dict.fromkeys(CURVES, float)
    frame = read_frame(path, types)
    if "quantizer" not in frame:
        frame = frame.rename(columns={"forward": "quantizer"})
    try:
        if missing := [name for name in Cell._fields if name not in frame]:
            raise ValueError(_no_column(missing, frame.columns))
        if VALIDATION in frame:
            frame[VALIDATION] = frame[VALIDATION].replace("", "nan").astype(float)
        _check_values(frame)
        begun = frame["epoch"].eq(1).groupby([frame[name] for name in TRIAL]).cumsum().rename("begun")
        return [
            _csv_trial(path, Cell(*cell), int(number), count, rows)
            for (*cell, number, count), rows in frame.groupby([*TRIAL, begun], sort=False)
        ]
    except ValueError as error:
        raise BadInput(f"{path} cannot be read: {first_line(error)}") from None


def _check_values(frame: pd.DataFrame) -> None:
    """Raises ValueError for a value that no run has; NaN stands for a value that is not known."""
    for name in Cell._fields:
        longest = MAX_LABEL if name == "dataset" else MAX_NAME
        if wrong := [value for value in frame[name].unique() if not is_name(value, longest)]:
            raise ValueError(f"{name} must be a name of at most {longest} printable characters, not {shown(wrong[0])}")
    for name in (*CURVES, *([VALIDATION] if VALIDATION in frame else [])):
        values, high = frame[name], 100.0 if name in PERCENTAGES else np.finfo(float).max
        wrong = values[~(values.isna() | values.abs().le(high)) | values.lt(0 if name in PERCENTAGES else -high)]
        if len(wrong):
            raise ValueError(f"{name} must be {'a percentage' if name in PERCENTAGES else 'finite'}, not {wrong.iloc[0]}")
    if frame["trial"].lt(0).any():
        raise ValueError(f"trial must be at least 0, not {frame['trial'].min()}")


def _csv_trial(path: Path, cell: Cell, number: int, begun: int, rows: pd.DataFrame) -> Trial:
    """begun: number of trials begun so far, 0 before the first epoch 1."""
    if not begun:
        raise ValueError(f"{cell} trial {number} has no first epoch")
    if list(rows["epoch"]) != list(range(1, len(rows) + 1)):
        raise ValueError(f"the epochs of {cell} trial {number} are not 1 to {len(rows)} in order")
    first = rows.iloc[0]
    settings = _settings(first.get("settings") or "null", f"{cell} trial {number}") or {"folder": path.name}
    seconds = np.array([float(text) for text in rows.get("seconds", ()) if text])
    if not (np.isfinite(seconds) & (seconds >= 0)).all():
        raise ValueError(f"the seconds of {cell} trial {number} are not finite numbers of at least 0")
    val_acc = rows[VALIDATION].to_numpy() if VALIDATION in rows else np.empty(0)
    if np.isnan(val_acc).any():  # of a trial without validation images
        if not np.isnan(val_acc).all():
            raise ValueError(f"the {VALIDATION} of {cell} trial {number} is not known for every epoch")
        val_acc = np.empty(0)
    made_by, state = printable(first.get("made_by") or ""), first.get("state") or "done"
    if not is_name(state):
        raise ValueError(f"the state of {cell} trial {number} is {shown(state)}")
    curves = (rows[name].to_numpy() for name in CURVES)
    more = {"state": state, "settings": settings, "seconds": seconds, "made_by": made_by, "val_acc": val_acc}
    return Trial(cell, number, *curves, source=path, **more)


def _settings(text: str, trial: str) -> dict[str, Any] | None:
    try:
        settings = strict_json.loads(text, constant=float)
        if settings is not None:
            check_settings(settings)
            settings = settings if "folder" in settings else with_precision(settings)
    except ValueError as error:
        raise ValueError(f"the settings of {trial} cannot be read: {error}") from None
    return settings


def write_csv(trials: Iterable[Trial], path: Path) -> None:
    """Writes the trials' finished epochs as a CSV file that `read_csv` reads. Paths are not written."""
    rows, trials = [], list(trials)
    columns = (*COLUMNS, *([VALIDATION] if any(len(trial.val_acc) for trial in trials) else []))
    for trial in trials:
        known = trial.recorded or OTHER_FORM in trial.settings
        settings = strict_json.dumps(trial.portable_settings) if known else ""
        seconds, val_acc = (
            known if len(known) == trial.epochs else [""] * trial.epochs for known in (trial.seconds, trial.val_acc)
        )
        curves = zip(val_acc, *(getattr(trial, name) for name in CURVES), seconds, strict=True)
        for epoch, (validated, *values) in enumerate(curves, start=1):
            first = (settings, trial.made_by, trial.state) if epoch == 1 else ("", "", "")
            rows.append((*trial.cell, trial.number, epoch, *values, *first, validated)[: len(columns)])
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False, na_rep="nan", lineterminator="\n")
