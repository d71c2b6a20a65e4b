"""Sweeps (`tables run --grid`): which value of the varied settings is best by validation accuracy, never by test accuracy."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from utils.report.compared import IN_A_SWEEP
from utils.report.formatting import Record, Table, cell_of, net_of, number, with_settings
from utils.report.trials import Group
from utils.report.validation import AT_BEST, at_best, validation_numbers
from utils.run.identity import CONTENTS
from utils.tables.grid import sweep_of

BEST = "best"
NOTE = (
    "The values of --grid; accuracies in percent. validation: each trial's best validation accuracy, mean over the trials; the "
    f"value with the highest one is {BEST}. {AT_BEST}: test accuracy at that epoch, mean over the trials; it plays no part in "
    "the choice. Without validation images no value is named, because test accuracy must not be used to choose one."
)


def sweeps_table(groups: Sequence[Group]) -> Table:
    """A row per value of every sweep among the groups."""
    records = [record for (_, _, spec), members in sweeps(groups).items() for record in _records(members, spec)]
    return Table(
        "sweeps",
        "Sweeps",
        records,
        {
            "net": net_of,
            "run": lambda r: with_settings(cell_of(r).method, r["spec"]),
            "epochs": lambda r: str(r["epochs"]),
            "value": lambda r: r["value"],
            "n": lambda r: str(r["n"]),
            "validation": lambda r: number(r.get("best_val", np.nan)),
            AT_BEST: at_best,
            "by validation": lambda r: r["choice"],
        },
        NOTE if records else "",
    )


def sweeps(groups: Sequence[Group]) -> Mapping[tuple, list[Group]]:
    """The groups of each sweep: of one cell and number of epochs, with the same --exp-spec but for their values.

    Where they are known to have begun with several base models, data sets, ..., each of these has a sweep of its own. The last
    field of a key says in words what tells a sweep from the others of its cell and number of epochs.
    """
    alike = defaultdict(list)
    for group in groups:
        spec = group.trials[0].settings.get("exp_spec")
        if (base := sweep_of(spec if isinstance(spec, str) else None)) is not None:
            alike[group.cell, group.trials[0].settings.get("epochs"), base].append(group)
    found = defaultdict(list)
    for (cell, epochs, base), members in alike.items():
        several = [name for name in CONTENTS if len({_content(group, name) for group in members} - {None}) > 1]
        for group in members:
            contents = [f"{name} {_content(group, name) or 'not recorded'}" for name in several]
            found[cell, epochs, ", ".join([*([base] if base else []), *contents])].append(group)
    return found


def _content(group: Group, name: str) -> str | None:
    """The digest that the group's trials have, as far as it is recorded."""
    return next(filter(None, (trial.settings.get(name) for trial in group.trials)), None)


def _records(members: Sequence[Group], spec: str) -> list[Record]:
    """The records of a sweep's groups, in the order of their values. spec: what tells the sweep from others of its cell."""
    settings = [group.trials[0].enabled_settings for group in members]
    names = sorted({name for each in settings for name in each} - IN_A_SWEEP)
    varied = [name for name in names if len({json.dumps(each.get(name)) for each in settings}) > 1]
    choices = _choices(members, settings)
    records = []
    for group, each, choice in zip(members, settings, choices, strict=True):
        found = group.statistics
        value = ", ".join(f"{name} {each.get(name, 'off')}" for name in varied) or each["exp_spec"]
        about = {"spec": spec, "epochs": group.epochs, "value": value, "n": found.n}
        records.append({**group.cell._asdict(), **about, **validation_numbers(found), "choice": choice})
    return records


def _choices(members: Sequence[Group], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What validation accuracy says of each group of a sweep: best, or why none is named."""
    scores = [group.statistics.best_val for group in members]
    if np.isnan(scores).any():
        return ["none is named: no validation images"] * len(members)
    seeds = {trial.settings.get("seed") for group in members for trial in group.trials}  # on which the images depend
    if len({each.get("validation") for each in settings}) > 1 or len(seeds) > 1:
        return ["none is named: the validation images differ"] * len(members)
    if len(members) == 1:
        return ["the only value so far"]
    return [BEST if score == max(scores) else "" for score in scores]
