"""A Slurm array script that carries a selection of runs out: an array task is a slice of it, on a GPU if one is wanted."""

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from utils import MAIN, PROJECT
from utils.errors import BadInput
from utils.files.text import counted
from utils.tables.options import EngineOptions, Selection
from utils.tables.selection import TableRun

TEMPLATE = PROJECT / "scripts" / "slurm.sbatch.template"
FOR_A_TASK = ("jobs", "trials_per_device", "cpus_per_run", "retries")  # engine's options


def slurm_script(selection: Selection, options: EngineOptions, runs: Sequence[TableRun], program: Path = MAIN) -> str:
    """The script for a selection, given its runs; trials_per_device of them are an array task, of which `jobs` run at once.

    Raises BadInput without --dry-run: submitting it is the user's, who knows partition, account and time limit.
    """
    if not options.dry_run:
        raise BadInput("--engine slurm only prints a script: tables run ... --engine slurm --dry-run > table.sbatch")
    if selection.slice:
        raise BadInput("--slice cannot be combined with --engine slurm, whose tasks are slices")
    share = options.trials_per_device
    if options.jobs and options.jobs > share:
        raise BadInput(f"--jobs {options.jobs}: at most {share}, the runs of a task (--trials-per-device)")
    at_once = options.jobs or share
    slices = math.ceil(len(runs) / share)
    task = [*selection.tables, *selection.flags(), *options.flags(FOR_A_TASK)]
    return TEMPLATE.read_text().format(
        gpus="#SBATCH --gpus=1\n" if any(run.settings.device != "cpu" for run in runs) else "",
        slices=slices,
        shares=counted(slices, "slice"),
        runs=counted(len(runs), "run"),
        at_once=at_once,
        cpus=(options.cpus_per_run or 1) * at_once,
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join([sys.executable, str(program), "tables", "run", *task]),
    )
