"""What a benchmark prints above its table, and the file of --out."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from utils.benchmark.options import BenchmarkOptions
from utils.environment import describe, git_state, peak_memory, versions
from utils.files import strict_json


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


def write_json(measurements: Sequence[Any], options: BenchmarkOptions, device: torch.device) -> None:
    """Writes the measurements (dataclasses) with options, device, versions, commit and peak memory into the file --out names."""
    record = {
        "device": describe(device),
        "versions": versions(),
        "git": git_state(),
        "settings": options.as_dict(),
        "peak_memory": peak_memory(device),
        "measurements": [asdict(m) for m in measurements],
    }
    Path(options.out).write_text(strict_json.dumps(record, indent=1) + "\n")
