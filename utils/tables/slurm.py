"""A Slurm array script that carries a selection of runs out: an array task is a slice of it, on one GPU."""

import math
import shlex
import sys
from pathlib import Path

from utils import MAIN, PROJECT
from utils.errors import BadInput
from utils.tables.options import EngineOptions, Selection

TEMPLATE = PROJECT / "scripts" / "slurm.sbatch.template"
FOR_A_TASK = ("jobs", "trials_per_device", "cpus_per_run", "retries")  # engine's options


def slurm_script(selection: Selection, options: EngineOptions, runs: int, program: Path = MAIN) -> str:
    """The script for a selection, given how many runs it has; trials_per_device of them are an array task.

    Raises BadInput without --dry-run: submitting it is the user's, who knows partition, account and time limit.
    """
    if not options.dry_run:
        raise BadInput("--engine slurm only writes the script: tables run ... --engine slurm --dry-run > table.sbatch")
    if selection.slice:
        raise BadInput("--slice is what the script's tasks use: leave it out with --engine slurm")
    share = options.trials_per_device
    if options.jobs and options.jobs > share:
        raise BadInput(f"--jobs {options.jobs}: a task has one GPU, which takes --trials-per-device {share}")
    slices = math.ceil(runs / share)
    task = [*selection.tables, *selection.flags(), *options.flags(FOR_A_TASK)]
    return TEMPLATE.read_text().format(
        slices=slices,
        runs=runs,
        share=share,
        cpus=(options.cpus_per_run or 1) * share,
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join([sys.executable, str(program), "tables", "run", *task]),
    )
