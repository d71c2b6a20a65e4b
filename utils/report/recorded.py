"""What the runs' records say, for the page: a fold per cell, and in it one per run with its settings."""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.files.text import counted
from utils.report.anchors import settings_anchor
from utils.report.document import Fold, Section
from utils.report.formatting import number
from utils.report.trials import LeftOut, Trial

NOTE = "Every run with a record, by net and method: where it is, what made it, and each setting that is not off."


def settings_section(trials: Sequence[Trial], left_out: Sequence[LeftOut]) -> Section:
    """The settings of all runs that have a record, and how many have none."""
    why = {id(left.trial): left.reason for left in left_out}
    cells = defaultdict(list)
    for trial in trials:
        if trial.recorded:
            cells[trial.cell].append(Fold(_title(trial), _values(trial, why.get(id(trial), ""))))
    folds = [
        Fold(
            f"{cell}: {counted(len(runs), 'run')}",
            folds=runs,
            anchor=settings_anchor(cell),
        )
        for cell, runs in cells.items()
    ]
    unknown = sum(not trial.recorded for trial in trials)
    without = f" {unknown} run{'s have' if unknown > 1 else ' has'} no record of the settings." if unknown else ""
    return Section("settings", "Settings of the runs", NOTE + without, folds=folds)


def _title(trial: Trial) -> str:
    return f"trial {trial.number}: {trial.state_in_words}, {counted(trial.epochs, 'epoch')}"


def _values(trial: Trial, left_out: str) -> dict[str, str]:
    """Name -> value, in words; where a setting has the name of another entry, the entry is shown."""
    seconds = number(float(np.median(trial.seconds)), 1) if len(trial.seconds) else ""
    about = {
        "not averaged, because": left_out,
        "source": str(trial.source),
        "made by": trial.made_by,
        "seconds per epoch (median)": seconds,
        "error": trial.error,
    }
    shown = {name: text for name, text in about.items() if text}
    return shown | {name: _text(value) for name, value in sorted(trial.enabled_settings.items()) if name not in shown}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
