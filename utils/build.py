"""What a run's settings stand for: its loaders, its net with the start that it takes, and its training loop."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from meta_utils.adam import Adam
from meta_utils.meta_network import META_NETWORKS
from meta_utils.registry import OPTIMIZEES
from meta_utils.training import TrainingLoop
from models_CIFAR.quantized_meta_resnet import MODELS
from utils.batches import Loader
from utils.checkpoint import load_tensors
from utils.dataset import get_dataloader
from utils.miscellaneous import BadInput
from utils.quantize import get_quantizer
from utils.run_record import read_record
from utils.settings import meta_network_options

TEST_BATCH_SIZE = 100


def load_data(settings: dict[str, Any], data_seed: int, device: torch.device) -> tuple[Loader, Loader]:
    """The training and the test loader."""
    s = settings
    options = {"data_root": s["data_root"], "device": device, "loader": s["loader"], "workers": s["workers"]}
    train_loader = get_dataloader(s["dataset"], "train", s["batch_size"], seed=data_seed, drop_last=s["drop_last"], **options)
    return train_loader, get_dataloader(s["dataset"], "test", TEST_BATCH_SIZE, **options)


def build_net(model: str, loader: Loader, device: torch.device, bits: int = 1) -> nn.Module:
    """A net for the loader's classes, on the device, channels last in memory, which is faster."""
    net = MODELS[model](bitW=bits, num_classes=loader.image_set.num_classes)
    return net.to(device, memory_format=torch.channels_last)


def build_loop(settings: dict[str, Any], loader: Loader, device: torch.device) -> TrainingLoop:
    """The training loop of a run's settings at iteration 0, its net for the loader's classes and at random."""
    s = settings
    net = build_net(s["model"], loader, device, s["bits"])
    optimizee = OPTIMIZEES[s["optimizer"]].build(net.parameters(), lr=s["init_lr"], weight_decay=s["weight_decay"])
    meta_net, meta_optimizer = _build_meta_network(s, device)
    quantizer = get_quantizer(s["quantizer"], s["bits"])
    return TrainingLoop(net, optimizee, quantizer, s["backward"], meta_net, meta_optimizer, s["update_order"] or "notebook")


def _build_meta_network(settings: dict[str, Any], device: torch.device) -> tuple[nn.Module | None, Adam | None]:
    """M and its optimizer (torch's Adam, gamma); None and None for STE."""
    if settings["backward"] == "STE":
        return None, None
    try:
        meta_net = META_NETWORKS[settings["backward"]](**meta_network_options(settings)).to(device)
    except ValueError as error:
        raise BadInput(f"--backward {settings['backward']}: {error}") from None
    decay = settings["meta_weight_decay"]
    return meta_net, Adam(meta_net.parameters(), lr=settings["meta_lr"], weight_decay=decay, bias_corrected_eps=True)


def load_start(net: nn.Module, settings: dict[str, Any]) -> None:
    """Loads the base model that --pretrained names; "none" keeps the random start."""
    path, model, dataset = settings["pretrained"], settings["model"], settings["dataset"]
    if path == "none":
        return
    if not Path(path).is_file():
        how = f"main.py pretrain -m {model} -d {dataset}"
        raise BadInput(f"--pretrained: there is no base model {path}; make it with '{how}', name another, or none for scratch")
    load_base_model(path, net, f"--pretrained (-m {model} -d {dataset})")
    made_from = _trained_on(Path(path).parent)
    if made_from not in (None, dataset):  # two sets of one name share the folder
        print(f"note: --pretrained {path} was trained on {made_from}, not on {dataset}", file=sys.stderr)


def _trained_on(folder: Path) -> str | None:
    """The data set of the last finished `pretrain` in a folder; None where none is known."""
    records = []
    for file in folder.glob("pretrain-trial-*/run.json"):
        with suppress(BadInput):
            records.append(read_record(file.parent))
    last = max((record for record in records if record["state"] == "done"), key=lambda r: r.get("ended", ""), default={})
    return last.get("settings", {}).get("dataset")


def load_base_model(path: str | Path, net: nn.Module, what: str) -> None:
    """Loads a state dict into the net strictly; `what` names flag and net in the error.

    Raises BadInput for a file that is absent, unreadable, not a plain state dict, or of another net.
    """
    weights = load_tensors(path, what)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BadInput(f"{what}: {path} is not a plain state dict (name -> tensor)")
    own = net.state_dict()
    wrong = [
        *(f"{name} is missing" for name in own if name not in weights),
        *(f"{name} is unexpected" for name in weights if name not in own),
        *(
            f"{name} has shape {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ),
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BadInput(f"{what}: {path} is not a base model of this net: {wrong[0]}{more}")
    net.load_state_dict(weights)
