"""A Slurm array script that carries a selection of runs out: an array task is a slice of it, on one GPU."""

import math
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from utils.errors import BadInput

TASK_FLAGS = (  # those of `tables run` that a task is given, too
    *("manifest", "protocol", "model", "quantizer", "optimizer", "backward", "trials", "trial", "epochs", "set"),
    *("data_root", "results_root", "pretrained_root", "jobs", "trials_per_device", "cpus_per_run", "retries"),
)

SCRIPT = """#!/usr/bin/env bash
#SBATCH --job-name=metaquant
#SBATCH --array=1-{slices}
#SBATCH --gpus=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=metaquant-%A_%a.log
#SBATCH --signal=B:TERM@120
# {runs} runs in {slices} slices, an array task each; {share} at once on its GPU. Partition, account and time limit: on sbatch's
# command line. A task that is preempted or reaches its time limit is put back in the queue and goes on where it was.
set -euo pipefail
cd {folder}
{command} --slice "$SLURM_ARRAY_TASK_ID/{slices}" &
task=$!
trap 'kill -TERM "$task"' TERM
status=0
wait "$task" || status=$?
if [ "$status" -gt 128 ] && kill -0 "$task" 2>/dev/null; then  # the trap ended the first wait: the runs are writing checkpoints
  status=0
  wait "$task" || status=$?
fi
if [ "$status" -eq 143 ]; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
"""


def slurm_script(args: Namespace, runs: int) -> str:
    """The script for the `tables run` command that args are of, given how many runs it selects; trials_per_device runs per task.

    Raises BadInput without --dry-run: submitting it is the user's, who knows partition, account and time limit.
    """
    if not args.dry_run:
        raise BadInput("--engine slurm only writes the script: tables run ... --engine slurm --dry-run > table.sbatch")
    if args.slice:
        raise BadInput("--slice is what the script's tasks use: leave it out with --engine slurm")
    share = args.trials_per_device
    if args.jobs and args.jobs > share:
        raise BadInput(f"--jobs {args.jobs}: a task has one GPU, which takes --trials-per-device {share}")
    slices = math.ceil(runs / share)
    command = shlex.join([sys.executable, str(args.program), *_task_arguments(args)])
    cpus = (args.cpus_per_run or 1) * share
    return SCRIPT.format(slices=slices, runs=runs, share=share, cpus=cpus, command=command, folder=shlex.quote(str(Path.cwd())))


def _task_arguments(args: Namespace) -> list[str]:
    """The arguments of a task, but for its slice."""
    arguments = ["tables", "run", *args.tables]
    for name in TASK_FLAGS:
        value = getattr(args, name)
        if name == "set":
            value = [f"{key}={text}" for key, text in value]
        if value not in (None, []):
            arguments += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return arguments
