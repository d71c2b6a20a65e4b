#!/usr/bin/env python3
"""How much a run's test accuracy moves from one iteration to the next: lowest, mean, highest and standard deviation.

    python figs/accuracy_spread.py RUN [RUN ...]

RUN: the folder of a run. The run is continued from its last checkpoint for 20 iterations and tested before the first and after
each; nothing is written. METAQUANT_DATA names the folder of the data. About 2 minutes per run on two CPU cores.
"""

import argparse
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
from utils.run.epochs import set_rates
from utils.run.folder.checkpoint import Checkpoints
from utils.run.folder.record import read_record
from utils.run.settings import TrainSettings

ITERATIONS = 20


def accuracies(folder: Path) -> list[float]:
    """Test accuracies in percent: of the checkpoint, and after each of the next iterations."""
    recorded, state = read_record(folder)["settings"], Checkpoints(folder).load()
    if "backward" not in recorded or state is None:
        raise BadInput(f"{folder} holds no checkpoint of a quantized run")
    settings = TrainSettings.from_record(recorded | {"data_root": default_data_root()})
    device = torch.device("cpu")
    data_seed = seed_everything(settings.seed, settings.trial)
    train_loader, test_loader, _ = load_data(settings, data_seed, device)
    loop = build_loop(settings, train_loader, device)
    loop.load_state_dict(state["loop"])
    found = [evaluate(loop.net, loop.quantizer, test_loader).top1]
    for size in train_loader.begin(*divmod(loop.iteration, len(train_loader))):
        loop.net.train()
        set_rates(loop, settings, len(train_loader), loop.iteration)
        loop.step(*train_loader.take(size))
        found.append(evaluate(loop.net, loop.quantizer, test_loader).top1)
        if len(found) > ITERATIONS:
            return found
    raise BadInput(f"{folder}: fewer than {ITERATIONS} iterations are left of its epoch")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="How much a run's test accuracy moves from one iteration to the next.")
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a run")
    arguments = parser.parse_args()
    keep_freed_memory()
    for path in arguments.runs:
        try:
            first, *later = accuracies(path)
        except BadInput as error:
            sys.exit(str(error))
        spread = (
            f"{min(later):.2f} - {max(later):.2f}, mean {statistics.fmean(later):.2f}, deviation {statistics.stdev(later):.2f}"
        )
        print(f"{path.name}: {first:.2f} %; after each of the next {ITERATIONS} iterations: {spread}", flush=True)
