"""What a run's record holds: the types of its fields and of its settings.

A record may come from another machine, another commit or another hand. Whoever reads one can rely on what is checked here; of
fields that are not listed only the digests of identity.py are used, which are compared.
"""

import math
from typing import Any

from utils.files.checks import (
    ANY_TEXT,
    FINITE,
    NAME,
    NUMBER,
    POSITIVE,
    SWITCH,
    TEXT,
    VALUE,
    WHOLE,
    Check,
    each,
    is_name,
    is_whole,
    list_of,
    object_of,
    or_none,
)
from utils.files.text import is_scalar, shown
from utils.options.kinds import Kind, NetName, OneOf, OneOfOrNone, Whole
from utils.options.options import settings_of
from utils.run.settings import PretrainSettings, TrainSettings

MAX_DEPTH = 20  # of lists and objects within one another; the records that are written have 5
MAY_BE_NAN = "result"  # records of earlier commits have a test loss there that is not finite
SESSION = {
    "began": TEXT,
    "device": TEXT,
    "hostname": TEXT,
    "versions": each(TEXT),
    "git": or_none(object_of({"commit": TEXT, "dirty": SWITCH, "untracked": WHOLE})),
}
RECORD = SESSION | {
    "state": NAME,
    "started": TEXT,
    "ended": TEXT,
    "error": or_none(ANY_TEXT),
    "ended_early": or_none(ANY_TEXT),
    "eager_because": or_none(ANY_TEXT),
    "base_model": or_none(TEXT),
    "replaces": or_none(TEXT),
    "wrote": TEXT,
    "epochs_done": WHOLE,
    "iterations_done": WHOLE,
    "iterations_per_epoch": POSITIVE,
    "seconds": FINITE,
    "seconds_per_epoch": list_of(FINITE),
    "peak_memory": each(FINITE),
    "result": each(NUMBER),
    "sessions": list_of(object_of(SESSION)),
}
SETTINGS = settings_of(PretrainSettings) | settings_of(TrainSettings)
KINDS: dict[str, Kind] = {name: entry.metadata["kind"] for name, entry in SETTINGS.items()}


def check_record_fields(record: Any) -> None:
    """Raises ValueError, naming the field, where something is not a record. It may lack all fields but settings and state."""
    if not isinstance(record, dict):
        raise ValueError("it is not an object")
    for name in ("settings", "state"):
        if name not in record:
            raise ValueError(f"it lacks {name!r}")
    _check_nesting(record)
    for name, check in RECORD.items():
        if name in record and not check.holds(record[name]):
            raise ValueError(f"{name} must be {check.accepts}, not {shown(record[name])}")
    check_settings(record["settings"])


def check_settings(settings: Any) -> None:
    """Raises ValueError where a value among a run's settings (name -> value) has another type than the setting, or None."""
    if not isinstance(settings, dict):
        raise ValueError(f"settings are not an object but {shown(settings)}")
    for name, value in settings.items():
        if not is_name(name):
            raise ValueError(f"{shown(name)} is not the name of a setting")
        check = _check_of(name)
        if value is not None and not check.holds(value):
            raise ValueError(f"setting {shown(name)} must be {check.accepts}, not {shown(value)}")


def _check_of(setting: str) -> Check:
    if setting == "base_model":  # in the compact form of earlier runs
        return TEXT
    if setting == "tf32":  # of earlier runs
        return SWITCH
    if setting == "momentum":  # of pretrain, which has no flag for it
        return FINITE
    kind = KINDS.get(setting)
    if kind is None:
        return VALUE
    check = _check_of_kind(kind)
    return list_of(check) if SETTINGS[setting].metadata["several"] else check


def _check_of_kind(kind: Kind) -> Check:
    if isinstance(kind, (NetName, OneOf, OneOfOrNone)):
        return NAME
    if isinstance(kind, Whole):
        return Check(kind.accepts, lambda value: is_whole(value, kind.low) and value <= (kind.high or value))
    return Check(kind.accepts, lambda value: type(value) in kind.stored and is_scalar(value))


def _check_nesting(record: dict[str, Any]) -> None:
    """Raises ValueError for what is nested too deep to be written again, and for a number that is not finite."""
    level, depth = [value for name, value in record.items() if name != MAY_BE_NAN], 1
    while level:
        if any(type(value) is float and not math.isfinite(value) for value in level):
            raise ValueError("it holds a number that is not finite")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        inner = [value.values() if isinstance(value, dict) else value for value in level if isinstance(value, (dict, list))]
        level, depth = [value for values in inner for value in values], depth + 1
