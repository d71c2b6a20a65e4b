"""What tells the runs of a cell apart in words: the settings in which they differ from the usual ones."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from utils.choices import META_NETWORKS, OPTIMIZEES, QUANTIZERS, usual_bits
from utils.options.options import REQUIRED, default_of
from utils.options.options import settings_of as fields_of
from utils.report.methods import is_learned
from utils.run.identity import in_words, switched_on
from utils.run.paths import NO_BASE_MODEL
from utils.run.settings import LEARNED_DEFAULTS, META_OPTIONS, PretrainSettings, TrainSettings
from utils.tables.cells import Cell

FROM_SCRATCH = "from scratch"
RUN_FOLDER = re.compile(r".+-trial-\d+")  # the name of a run that another one began with
IN_NO_LABEL = {*Cell._fields, "trial"}
WITHOUT_DEFAULT = {*IN_NO_LABEL, "epochs"}  # a number of epochs is usual only where the published runs have it
BY_FILE = {"pretrained"}  # has no usual value: base models lie anywhere
NAMES_THE_RUN = "exp_spec"
OTHER_FORM = "other_form"  # of a trial without a record: what its folder's name says beyond those of the published runs


def default_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a run's settings, which depend on its quantizer, optimizer and gradient; none of what has no default."""
    cls = TrainSettings if "backward" in settings else PretrainSettings
    defaults = {name: default_of(entry) for name, entry in fields_of(cls).items()}
    if cls is TrainSettings:
        backward = settings["backward"]
        learned = is_learned(backward, settings)
        options = META_NETWORKS.options(backward) if backward in META_NETWORKS else {}
        defaults = {name: value for name, value in defaults.items() if name not in META_OPTIONS and name not in LEARNED_DEFAULTS}
        defaults |= {name: options[option] for name, option in META_OPTIONS.items() if option in options}
        defaults |= LEARNED_DEFAULTS if learned else {}
        defaults["bits"] = usual_bits(settings["quantizer"]) if settings.get("quantizer") in QUANTIZERS else 1
        if choice := OPTIMIZEES.get(settings.get("optimizer")):
            defaults["weight_decay"] = choice.decay_learned if learned else choice.decay_ste
            defaults |= {} if learned else choice.options_ste
    return {name: value for name, value in defaults.items() if value is not REQUIRED and name not in WITHOUT_DEFAULT}


def labels(keys: Iterable[str], usual: Mapping[str, Any]) -> dict[str, str]:
    """Grouping key of a cell (settings as JSON) -> the settings that differ from the usual ones; no two labels are the same.

    usual: overrides the defaults. What has no usual value (a name of one's own, the file of a base model, what a digest says) is
    named where labels would be the same without it. Logs without a record are labelled "no record", with their folder if there
    are several kinds of them, or if its name is not of the published form.
    """
    found = {key: json.loads(key) for key in keys}
    unrecorded = {key: values for key, values in found.items() if "folder" in values}
    settings = {key: values for key, values in found.items() if key not in unrecorded}
    names = {key: _unusual(values, usual) for key, values in settings.items()}
    equal = defaultdict(list)
    for key, values in settings.items():
        equal[_in_words(values, names[key])].append(key)
    for members in equal.values():
        differing = _differing([settings[key] for key in members])
        told_apart = differing - {NAMES_THE_RUN}  # a name may repeat a setting, as that of a sweep's run does
        if len({_in_words(settings[key], names[key] | told_apart) for key in members}) < len(members):
            told_apart = differing
        names |= {key: names[key] | told_apart for key in members}
    several = len(unrecorded) > 1
    without = {
        key: f"no record: {values['folder']}" if several or OTHER_FORM in values else "no record"
        for key, values in unrecorded.items()
    }
    return without | {key: _in_words(values, names[key]) for key, values in settings.items()}


def _unusual(values: Mapping[str, Any], usual: Mapping[str, Any]) -> set[str]:
    """The settings that have another value than usual; one that a record lacks is missed only where it is a switch."""
    known = default_settings(values) | dict(usual)
    expected = switched_on(json.loads(json.dumps(known)))
    compared = known.keys() - IN_NO_LABEL - BY_FILE - {NAMES_THE_RUN}
    found = {name for name in compared & values.keys() if values[name] != expected.get(name)}
    found |= {name for name in compared - values.keys() if expected.get(name) is True}
    return found | {
        name for name in BY_FILE & values.keys() if values[name] == NO_BASE_MODEL or RUN_FOLDER.fullmatch(values[name])
    }


def _differing(several: list[Mapping[str, Any]]) -> set[str]:
    names = {name for values in several for name in values}
    return {name for name in names if len({json.dumps(values.get(name)) for values in several}) > 1}


def _in_words(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(sorted(filter(None, (_setting_in_words(name, values.get(name, "off")) for name in names))))


def _setting_in_words(name: str, value: Any) -> str:
    if name == NAMES_THE_RUN and value == "off":
        return ""
    if name in BY_FILE and value != "off":
        return FROM_SCRATCH if value == NO_BASE_MODEL else f"from {value}"
    if name == "phi" and value is True:
        return "phi of another run"
    return f"{name} {'on' if value is True else in_words(value)}"
