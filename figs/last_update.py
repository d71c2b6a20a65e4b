#!/usr/bin/env python3
"""Test accuracy of a run at its last checkpoint, and with the last update taken back: what one update does to it.

    python figs/last_update.py RUN [RUN ...]

RUN: folders of runs whose learning rate has not dropped since that update. Data lies where METAQUANT_DATA says.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from models_CIFAR.quantized_meta_resnet import MODELS
from utils.checkpoint import Checkpoints
from utils.dataset import get_dataloader
from utils.quantize import evaluate, get_quantizer
from utils.run import read_record


@torch.no_grad()
def accuracies(folder: Path) -> tuple[float, float]:
    """Top-1 in percent: as it is, and with W + alpha r in the place of W, r the refined gradient of the last update."""
    settings, state = read_record(folder)["settings"], Checkpoints(folder).load()["loop"]
    loader = get_dataloader(settings["dataset"], "test", 250)
    net = MODELS[settings["model"]](bitW=settings["bits"], num_classes=loader.image_set.num_classes)
    net = net.to(memory_format=torch.channels_last)
    net.load_state_dict(state["net"])
    quantizer = get_quantizer(settings["quantizer"], settings["bits"])
    after = evaluate(net, quantizer, loader).top1
    for name, p in net.named_parameters():
        p += settings["init_lr"] * state["gradients"][name]
    return after, evaluate(net, quantizer, loader).top1


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print("{}: {:.2f} %, with the last update taken back {:.2f} %".format(path, *accuracies(Path(path))))
