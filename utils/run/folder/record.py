"""A run's record run.json: read, and compared with the settings of a command."""

import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from utils import LOGS, log_file
from utils.choices import npz_path
from utils.errors import BadInput, Finished, reason
from utils.files import strict_json
from utils.files.look import look_at
from utils.files.text import counted
from utils.files.untrusted import MIB, read_limited
from utils.run.common_settings import Settings, with_precision
from utils.run.folder.fields import check_record_fields
from utils.run.identity import DATA, NOTHING, Identity, data_digest
from utils.run.paths import RECORD, has_checkpoint

REPLACED = "replaced"
START_OVER = "--overwrite to start over"
RECORD_LIMIT = 16 * MIB
LONGEST_ERROR = 1000  # characters of a recorded error that are repeated


def read_record(path: Path) -> dict[str, Any]:
    """A run's run.json, whose fields and settings have the types that utils/run/folder/fields.py lists.

    The settings of an earlier version have their present names. A run that an earlier version called done in spite of a test that
    is not finite has failed.

    Raises BadInput, naming the file and the fault, where there is none, or it is not whole, or not a record.
    """
    file = path / RECORD
    try:
        record = strict_json.loads(read_limited(file, RECORD_LIMIT).decode(), constant=float)
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(file):
            raise BadInput(f"{file} is a link to a file that is not there") from None
        raise BadInput(f"{path} is not a run's folder: it has no {RECORD}") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {reason(error)}") from None
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {error}") from None
    try:
        check_record_fields(record)
    except ValueError as error:
        raise BadInput(f"{file} is not a run's record: {error}") from None
    record["settings"] = with_precision(record["settings"])
    fault = fault_of_result(record.get("result"))
    return record | {"state": "failed", "error": fault} if fault and record["state"] == "done" else record


def fault_of_result(result: Any, what: str = "test") -> str | None:
    """Which number of a run's last test, or another evaluation, is not finite; None where all are, or none is known."""
    numbers = result.items() if isinstance(result, Mapping) else ()
    wrong = (f"the {what} {name} is {value}" for name, value in numbers if isinstance(value, float) and not math.isfinite(value))
    return next(wrong, None)


def ended_early(record: Mapping[str, Any]) -> str:
    """How many of its epochs a run that is done has had, and why it ended there; "" where it has had all, or is not done."""
    done, planned = record.get("epochs_done"), record["settings"].get("epochs")
    if record.get("state") != "done" or not (isinstance(done, int) and isinstance(planned, int) and done < planned):
        return ""
    return f"{done} of {counted(planned, 'epoch')}: {record.get('ended_early') or 'the reason was not recorded'}"


def check_record(
    path: Path, settings: Settings, contents: Mapping[str, str] = NOTHING, advice: str = ""
) -> dict[str, Any] | None:
    """The record of a run that is to be resumed; None where it has not begun. contents: as in Identity.

    advice: what to do where it is another run's; "": what `train` and `pretrain` have flags for. The data of an NPZ file are read
    for it where the run is done and they are not among the contents.

    Raises Finished for one that is done, BadInput where it is of other settings or contents, each difference named, and for a
    folder that holds logs and nothing else of a run.
    """
    file = path / RECORD
    if look_at(file, "--results-root") is None and not file.is_symlink():  # a link to nothing is not a run that has not begun
        if not has_checkpoint(path) and (log := _first_log(path)):
            raise BadInput(f"{path} holds {log.name} of a run, and no {RECORD}: {advice or 'move it away, or ' + START_OVER}")
        return None
    record = read_record(path)
    if record["state"] == "done" and DATA in record and DATA not in contents and (data := _npz_digest(settings)):
        contents = {**contents, DATA: data}
    there, here = Identity.of_record(record), Identity.of_command(settings, contents)
    if listed := there.differing_settings(here):
        another = "choose another --exp-spec, or " if "exp_spec" in here.settings else ""
        raise BadInput(f"{path} has other settings: {listed}; {advice or another + START_OVER}")
    has_trained = record.get("iterations_done") or has_checkpoint(path)
    if has_trained and (listed := there.differing_contents(here)):
        raise BadInput(f"{path} {listed}; {advice or '--overwrite starts over'}")
    if record.get("state") == "done":
        result = record.get("result") or {}
        accuracy = (
            f": test accuracy {result['top1']:.2f} % (best {result['best_top1']:.2f} %)"
            if {"top1", "best_top1"} <= result.keys()
            else ""
        )
        if "top1_at_best_val" in result:
            accuracy += f"; {result['top1_at_best_val']:.2f} % at the best validation epoch"
        early = f" after {why}" if (why := ended_early(record)) else ""
        raise Finished(f"{path} is done{early}{accuracy}")
    return record


def _first_log(path: Path) -> Path | None:
    """A log in a folder that has a row."""
    return next((file for log in LOGS if (file := path / log_file(log)).is_file() and file.stat().st_size), None)


def _npz_digest(settings: Settings) -> str | None:
    """The digest of the NPZ file that the settings name; None where they name none, or it is not there."""
    path = npz_path(settings.dataset)
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return _digest_of_version(path, found.st_mtime_ns, found.st_size)


@cache
def _digest_of_version(path: Path, modified: int, size: int) -> str:
    from utils.npz import SPLITS, read_npz  # torch

    return data_digest(*(read_npz(path, split) for split in SPLITS))
