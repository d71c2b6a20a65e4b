#!/usr/bin/env python3
"""How much a run's test accuracy moves from one iteration to the next: lowest, mean, highest and standard deviation.

    python figs/accuracy_spread.py RUN [RUN ...]

RUN: a folder of a run. It is continued from its last checkpoint for ITERATIONS iterations, tested before the first and after
each; nothing is written. Data lies where METAQUANT_DATA says. About 2 minutes a run on two CPU cores.
"""

import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils import default_data_root
from utils.environment import keep_freed_memory, seed_everything
from utils.errors import BadInput
from utils.quantize import evaluate
from utils.run.build import build_loop, load_data
from utils.run.checkpoint import Checkpoints
from utils.run.record import read_record
from utils.run.settings import TrainSettings

ITERATIONS = 20


def accuracies(folder: Path) -> list[float]:
    """Top-1 in percent: as the checkpoint is, and after each of the iterations that come next."""
    recorded, state = read_record(folder)["settings"], Checkpoints(folder).load()
    if "backward" not in recorded or state is None:
        raise BadInput(f"{folder} holds no checkpoint of a quantized run")
    settings = TrainSettings.from_record(recorded | {"data_root": default_data_root()})
    device = torch.device("cpu")
    data_seed = seed_everything(settings.seed, settings.trial)
    train_loader, test_loader = load_data(settings, data_seed, device)
    loop = build_loop(settings, train_loader, device)
    loop.load_state_dict(state["loop"])
    train_loader.epoch, train_loader.skip = divmod(loop.iteration, len(train_loader))
    found = [evaluate(loop.net, loop.quantizer, test_loader).top1]
    for inputs, targets in train_loader:
        loop.net.train()
        loop.step(inputs, targets)
        found.append(evaluate(loop.net, loop.quantizer, test_loader).top1)
        if len(found) > ITERATIONS:
            return found
    raise ValueError(f"{folder}: fewer than {ITERATIONS} iterations are left of its epoch")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python figs/accuracy_spread.py RUN [RUN ...]")
    keep_freed_memory()
    for path in map(Path, sys.argv[1:]):
        try:
            first, *later = accuracies(path)
        except (BadInput, ValueError) as error:
            sys.exit(str(error))
        spread = (
            f"{min(later):.2f} - {max(later):.2f}, mean {statistics.fmean(later):.2f}, deviation {statistics.stdev(later):.2f}"
        )
        print(f"{path.name}: {first:.2f} %; after each of the next {ITERATIONS} iterations: {spread}", flush=True)
