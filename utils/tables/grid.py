"""Sweeps (`tables run --grid init-lr=1e-3,1e-2`): the combinations of several values, each a run of its own.

A run's --exp-spec names its values, after the word "grid": the folders are distinct, and the report knows which runs are a sweep.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

from utils.choices import QUANTIZERS, is_trained
from utils.errors import BadInput
from utils.options.options import settings_of, spelling
from utils.run.common_settings import MAY_DIFFER
from utils.run.settings import LEARNED_DEFAULTS, META_OPTIONS, TrainSettings, method_defaults
from utils.tables.cells import Cell
from utils.tables.manifest import NOT_SETTINGS

MARK = "grid"
NAMES = "|".join(name.replace("_", "-") for name in settings_of(TrainSettings))
SPEC = re.compile(rf"(?:(.*)-)?{MARK}-(?:{NAMES})-.+")
SHARED_BY_A_SWEEP = ("epochs", "exp-spec", "seed", "validation", "deterministic", "loader")
PATHS = ("phi", "pretrained")  # of which a folder's name would not tell two apart
Grid = Mapping[str, Sequence[str]]  # setting with dashes -> its values as texts


def read_grid(given: Sequence[tuple[str, Sequence[str]]], fixed: Collection[str]) -> Grid:
    """The settings and values of --grid, each value as `train` writes it. fixed: the settings that --set gives.

    Raises BadInput for a setting that is unknown, is there twice or cannot be varied, and for a value that is wrong or repeated.
    """
    known = {name.replace("_", "-"): entry for name, entry in settings_of(TrainSettings).items()}
    grid: dict[str, list[str]] = {}
    for name, texts in given:
        if not can_be_varied(name):
            raise BadInput(f"--grid {name}: cannot be varied: the manifest's cells, --set or this command's flags set it")
        if name not in known:
            raise BadInput(f"--grid {name}: there is no setting --{name}")
        if name in grid or name in fixed:
            raise BadInput(f"--grid {name}: is given twice" if name in grid else f"--grid {name}: --set gives it, too")
        kind = known[name].metadata["kind"]
        try:
            values = [kind.read(text) for text in texts]
        except ValueError as error:
            raise BadInput(f"--grid {name}: {spelling(known[name])}: {error}") from None
        for index, value in enumerate(values):
            if value in values[:index]:
                raise BadInput(f"--grid {name}: {texts[index]} is listed twice")
        grid[name] = list(map(kind.text, values))
    return grid


def can_be_varied(name: str) -> bool:
    """Whether --grid takes a setting, by its name with dashes; what is no setting is not known here."""
    return name not in {*NOT_SETTINGS, *SHARED_BY_A_SWEEP, *PATHS, *(other.replace("_", "-") for other in MAY_DIFFER)}


def combinations(grid: Grid, cell: Cell) -> list[dict[str, str]]:
    """Every combination of a grid's values; settings that the cell's method or quantizer lacks are left out."""
    trained = cell.quantizer in QUANTIZERS and is_trained(cell.quantizer)  # an unknown name is the settings' to refuse
    used = {*method_defaults(cell.backward), *(["quantizer_lr"] if trained else [])}
    of_some = {*META_OPTIONS, *LEARNED_DEFAULTS, "quantizer_lr"} - used
    names = [name for name in grid if name.replace("-", "_") not in of_some]
    return [dict(zip(names, values, strict=True)) for values in product(*(grid[name] for name in names))]


def exp_spec(base: Any, varied: Mapping[str, str]) -> str:
    """The --exp-spec of a run of a sweep: init-lr 0.01 of a run that has the spec "short" is short-grid-init-lr-0.01."""
    parts = [f"{name}-{re.sub('[^A-Za-z0-9._-]', '-', value.replace('+', ''))}" for name, value in varied.items()]
    return "-".join([*([] if base is None else [str(base)]), MARK, *parts])


def sweep_of(spec: str | None) -> str | None:
    """What the --exp-spec of a run says beside its values in a sweep ("" for nothing); None where the run is of no sweep."""
    found = SPEC.fullmatch(spec or "")
    return found and (found[1] or "")
