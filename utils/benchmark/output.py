"""What a benchmark prints above its table, and the file of --out."""

import os
import stat
from collections.abc import Sequence
from dataclasses import asdict
from errno import ENOSPC
from pathlib import Path
from typing import Any

import torch

from utils.benchmark.options import BenchmarkOptions
from utils.environment import describe, git_state, peak_memory, versions
from utils.errors import BadInput, RunFailed, reason
from utils.files import strict_json
from utils.files.look import look_at

SPACE = 1 << 16  # bytes that are tried; a hundred measurements take fewer


def heading(options: BenchmarkOptions, device: torch.device) -> str:
    """A line with the device, how much was timed, the versions of the packages, and the commit where it is known."""
    iterations = f"{options.repeats} x {options.iterations} iterations"
    if options.at_once:
        iterations = f"{options.repeats * options.iterations} iterations of each run"
    if options.scale:
        iterations = "an iteration, counted"
    made_by = [f"{name} {version}" for name, version in versions().items()]
    if git := git_state():
        made_by.append(f"commit {git['commit'][:10]}{' with changes' if git['dirty'] else ''}")
    return f"{describe(device)}; {iterations}; {', '.join(made_by)}"


def try_out(out: str) -> None:
    """Writes as many bytes as measurements may take to the file that --out names, and leaves it as it was.

    Raises BadInput where that fails. A pipe or a device is not tried.
    """
    before = look_at(out, "--out")
    if before is not None and not stat.S_ISREG(before.st_mode):
        return
    try:
        with open(out, "ab", buffering=0) as file:
            size = file.tell()
            try:
                if file.write(bytes(SPACE)) < SPACE:
                    raise OSError(ENOSPC, os.strerror(ENOSPC))
            finally:
                file.truncate(size)
    except OSError as error:
        raise BadInput(f"--out {out} cannot be written: {reason(error)}") from None
    finally:
        if before is None:
            Path(out).resolve().unlink(missing_ok=True)  # of a link to nothing, what it led to


def write_json(measurements: Sequence[Any], options: BenchmarkOptions, device: torch.device) -> None:
    """Writes the measurements (dataclasses) with options, device, versions, commit and peak memory into the file --out names.

    Raises RunFailed where it cannot be written.
    """
    record = {
        "device": describe(device),
        "versions": versions(),
        "git": git_state(),
        "settings": options.as_dict(),
        "peak_memory": peak_memory(device),
        "measurements": [asdict(m) for m in measurements],
    }
    try:
        Path(options.out).write_text(strict_json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise RunFailed(f"--out {options.out} cannot be written: {reason(error)}") from None
