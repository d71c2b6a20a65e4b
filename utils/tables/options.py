"""What a `tables` command is told: which runs, and how they are carried out. Imports no engine: the parser starts at once."""

import os
import re
from dataclasses import dataclass
from typing import Any

from utils.options.kinds import PATH, Kind, OneOf, Switch, Whole
from utils.options.options import REQUIRED, Options, like, setting
from utils.run.common_settings import Settings
from utils.tables.manifest import MANIFEST, MAX_TRIALS, PROTOCOLS

ENGINES = ("local", "ray", "slurm")
MOST_JOBS = 10_000  # processes at once; no machine has more cores


def pair(value: Any, kind: type) -> tuple[Any, Any]:
    """The two members of a pair, each of a type (a bool is no int). Raises ValueError for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError
    if not all(isinstance(member, kind) and not isinstance(member, bool) for member in value):
        raise ValueError
    return tuple(value)


class Share(Kind):
    """I/N, the I-th of N shares, as the pair (I, N)."""

    accepts = "I/N, the I-th of N shares with I from 1 to N"

    def text(self, value: tuple[int, int]) -> str:
        return "/".join(map(str, value))

    def _parsed(self, text: str) -> tuple[int, int]:
        if not re.fullmatch(r"[0-9]+/[0-9]+", text):
            raise ValueError
        index, count = text.split("/")
        return int(index), int(count)

    def _checked(self, value: Any) -> tuple[int, int]:
        index, count = pair(value, int)
        if not 1 <= index <= count:
            raise ValueError
        return index, count


class Assignment(Kind):
    """NAME=VALUE as the pair (NAME, VALUE), NAME with dashes."""

    accepts = "NAME=VALUE with a long flag's name without the leading --, such as batch-size=64"

    def text(self, value: tuple[str, str]) -> str:
        return "=".join(value)

    def _parsed(self, text: str) -> tuple[str, str]:
        name, _, value = text.partition("=")
        return name.replace("_", "-"), value

    def _checked(self, value: Any) -> tuple[str, str]:
        name, text = pair(value, str)
        if not (name and text) or name.startswith("-"):
            raise ValueError
        return name, text


class Values(Kind):
    """NAME=VALUE,VALUE,... as the pair (NAME, (VALUE, ...)), NAME with dashes; semicolons separate values that have commas."""

    accepts = (
        "NAME=VALUE,VALUE,... with a long flag's name without the leading -- and at least two values, such as init-lr=1e-3,1e-2; "
        "semicolons separate values that have commas"
    )

    def text(self, value: tuple[str, tuple[str, ...]]) -> str:
        name, values = value
        return f"{name}={(';' if any(',' in each for each in values) else ',').join(values)}"

    def _parsed(self, text: str) -> tuple[str, tuple[str, ...]]:
        name, _, values = text.partition("=")
        return name.replace("_", "-"), tuple(values.split(";" if ";" in values else ","))

    def _checked(self, value: Any) -> tuple[str, tuple[str, ...]]:
        name, values = pair(value, object)
        if not isinstance(name, str) or not name or name.startswith("-"):
            raise ValueError
        if not isinstance(values, (list, tuple)) or len(values) < 2 or not all(isinstance(one, str) and one for one in values):
            raise ValueError
        return name, tuple(values)


CELLS, RUNS, ENGINE = "selection of cells", "settings of the runs", "engine"  # headings of the help


@dataclass(frozen=True, kw_only=True)
class Selection(Options):
    """Which runs of a manifest's tables are meant, and which settings they have over the manifest's."""

    tables: tuple[str, ...] = setting(
        REQUIRED,
        "the manifest's tables (table1, table2, fig3, evidence), or all",
        several=True,
        positional=True,
        metavar="TABLE",
    )
    manifest: str = setting(str(MANIFEST), "file of the tables to run", kind=PATH, metavar="TOML")
    protocol: str = setting("logs", "settings as the published logs show, or as the paper's text says", kind=OneOf(PROTOCOLS))
    model: tuple[str, ...] = setting((), "only these networks", "-m", several=True, group=CELLS)
    quantizer: tuple[str, ...] = setting((), "only these quantizers", "-q", several=True, group=CELLS)
    optimizer: tuple[str, ...] = setting((), "only these optimizers", "-o", several=True, group=CELLS)
    backward: tuple[str, ...] = setting((), "only these gradients (STE, MultiFC, ...)", "-meta", several=True, group=CELLS)
    trials: int | None = setting(
        None, "trials 1 to N (default: the manifest's)", kind=Whole(1, MAX_TRIALS), metavar="N", group=CELLS
    )
    trial: tuple[int, ...] = setting((), "only these trials", kind=Whole(1), several=True, metavar="T", group=CELLS)
    slice: tuple[int, int] | None = setting(
        None, "only the I-th of N shares of the selected runs", kind=Share(), metavar="I/N", group=CELLS
    )
    epochs: int | None = setting(None, "epochs (default: the manifest's)", "-n", kind=Whole(1), group=RUNS)
    set: tuple[tuple[str, str], ...] = setting(
        (),
        "other flags of train, such as batch-size=64",
        kind=Assignment(),
        several=True,
        repeatable=True,
        metavar="NAME=VALUE",
        group=RUNS,
    )
    grid: tuple[tuple[str, tuple[str, ...]], ...] = setting(
        (),
        "a run for every combination of these values, such as init-lr=1e-3,1e-2,1e-1; the report names the best by validation",
        kind=Values(),
        several=True,
        repeatable=True,
        metavar="NAME=VALUE,VALUE,...",
        group=RUNS,
    )
    data_root: str = like(Settings, "data_root", group=RUNS)
    results_root: str = like(Settings, "results_root", group=RUNS)
    pretrained_root: str | None = setting(
        lambda: os.environ.get("METAQUANT_PRETRAINED") or None,
        "folder of base models (or METAQUANT_PRETRAINED); those it lacks are taken from --results-root; none: from scratch",
        kind=PATH,
        metavar="DIR|none",
        group=RUNS,
    )


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """What carries the runs out, and how many at once."""

    engine: str = setting(
        "local",
        "local: processes on this machine; ray: a Ray cluster; slurm: print an array script (with --dry-run)",
        kind=OneOf(ENGINES),
        group=ENGINE,
    )
    jobs: int | None = setting(
        None, "runs at once (default: all that --trials-per-device allows)", kind=Whole(1, MOST_JOBS), group=ENGINE
    )
    trials_per_device: int = setting(1, "runs that share a GPU, or the CPU", kind=Whole(1, MOST_JOBS), group=ENGINE)
    cpus_per_run: int | None = setting(
        None,
        "CPU threads of a run (default: cores / runs at once; Slurm, and Ray on GPUs or with --jobs: 1)",
        kind=Whole(1, MOST_JOBS),
        group=ENGINE,
    )
    retries: int = setting(3, "times that a run whose process was killed is started again", kind=Whole(0), group=ENGINE)
    address: str | None = setting(None, "address of a running Ray cluster (default: a local Ray instance)", group=ENGINE)
    dry_run: bool = setting(False, "print the commands, or the Slurm script, and run nothing", kind=Switch(), group=ENGINE)
