"""A run's folder by name, and its record run.json: read, and compared with the settings of a command."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from utils.choices import STE
from utils.errors import BadInput, Finished
from utils.run.fields import check_record_fields
from utils.run.paths import experiment_folder
from utils.run.settings import MAY_DIFFER, Settings, TrainSettings
from utils.untrusted import MIB, read_limited, reason

REPLACED = "replaced"
RECORD_LIMIT = 16 * MIB
LONGEST_ERROR = 1000  # characters of a recorded error that are repeated


def run_name(settings: TrainSettings) -> str:
    """The folder name of a training run."""
    s = settings
    quantized = f"{s.quantizer}-{{}}{s.optimizer}-{s.bits}bits-lr-{s.lr_adjust}"
    if s.backward == STE:
        name = "Baseline-" + quantized.format("optimizer-")
    else:
        sizes = (("hidden-size", s.hidden_size), ("nfc", s.num_fc), ("nlstm", s.num_lstm))
        size = "".join(f"-{tag}-{value}" for tag, value in sizes if value is not None)
        name = f"Meta-{s.backward}-Nonlinear-{s.meta_nonlinear or 'None'}{size}-{quantized.format('')}"
    spec = f"-{s.exp_spec}" if s.exp_spec else ""
    return f"{name}{spec}-trial-{s.trial}"


def run_path(settings: TrainSettings) -> Path:
    """The folder of a training run."""
    return experiment_folder(settings.results_root, settings.model, settings.dataset) / "runs-Quant" / run_name(settings)


def read_record(path: Path) -> dict[str, Any]:
    """A run's run.json, whose fields and settings have the types that utils/run/fields.py lists.

    Raises BadInput, naming the file and the fault, where there is none, or it is not whole, or not a record.
    """
    file = path / "run.json"
    try:
        record = json.loads(read_limited(file, RECORD_LIMIT).decode())
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(file):
            raise BadInput(f"{file} is a link to a file that is not there") from None
        raise BadInput(f"{path} is not a run's folder: it has no run.json") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {reason(error)}") from None
    except RecursionError:
        raise BadInput(f"{file} is damaged: it is nested too deep") from None
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {error}") from None
    try:
        check_record_fields(record)
    except ValueError as error:
        raise BadInput(f"{file} is not a run's record: {error}") from None
    return record


def switched_on(settings: dict[str, Any]) -> dict[str, Any]:
    """Drops settings that are off or None, so that a newly added one does not invalidate older records."""
    return {name: value for name, value in settings.items() if value is not None and value is not False}


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings in which two runs are not the same run."""
    there, here = (switched_on(json.loads(json.dumps(settings))) for settings in (old, new))
    names = sorted(name for name in there.keys() | here.keys() if name not in MAY_DIFFER and there.get(name) != here.get(name))
    if "pretrained" in names and Path(there.get("pretrained", "")).name == Path(here.get("pretrained", "")).name:
        names.remove("pretrained")  # another path; check_record looks at the bytes
    return names


def digest_of(path: str) -> str | None:
    """A file's SHA-256; None where there is none."""
    return _digest(path, Path(path).stat().st_mtime_ns) if Path(path).is_file() else None


@cache
def _digest(path: str, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_record(path: Path, settings: Settings) -> dict[str, Any] | None:
    """The record of a run that is to be resumed; None where it has not begun.

    Raises Finished for one that is done, BadInput where its settings are others, each difference named.
    """
    try:
        os.lstat(path / "run.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BadInput(f"{path} (--results-root) cannot be looked at: {reason(error)}") from None
    record, here = read_record(path), settings.as_dict()
    there = record["settings"]
    if names := _differing(there, here):
        listed = ", ".join(f"{name} {there.get(name)} there and {here.get(name)} here" for name in names)
        another = "choose another --exp-spec, or " if "exp_spec" in here else ""
        raise BadInput(f"{path} has other settings: {listed}; {another}--overwrite to start over")
    pretrained = here.get("pretrained", "")
    began_from, base_model = record.get("base_model"), digest_of(pretrained)
    if began_from and base_model and began_from != base_model:
        raise BadInput(f"{path} began from another base model than {pretrained} is now; --overwrite starts over")
    if record.get("state") == "done":
        result = record.get("result") or {}
        accuracy = f": test accuracy {result['top1']:.2f} % (best {result['best_top1']:.2f} %)" if "best_top1" in result else ""
        raise Finished(f"{path} is done{accuracy}")
    return record
