"""What a run's settings stand for: its loaders, its net and its training loop."""

from typing import Any

import torch
from torch import nn

from meta_utils.adam import Adam
from meta_utils.training import TrainingLoop
from utils.batches import Loader
from utils.choices import META_NETWORKS, MODELS, OPTIMIZEES
from utils.dataset import get_dataloader
from utils.errors import BadInput
from utils.quantize import get_quantizer
from utils.run.settings import meta_network_options

TEST_BATCH_SIZE = 100


def load_data(settings: dict[str, Any], data_seed: int, device: torch.device) -> tuple[Loader, Loader]:
    """The training and the test loader."""
    s = settings
    options = {"data_root": s["data_root"], "device": device, "loader": s["loader"], "workers": s["workers"]}
    train_loader = get_dataloader(s["dataset"], "train", s["batch_size"], seed=data_seed, drop_last=s["drop_last"], **options)
    return train_loader, get_dataloader(s["dataset"], "test", TEST_BATCH_SIZE, **options)


def build_net(model: str, loader: Loader, device: torch.device, bits: int = 1) -> nn.Module:
    """A net for the loader's classes, on the device, channels last in memory, which is faster."""
    net = MODELS.load(model)(bitW=bits, num_classes=loader.image_set.num_classes)
    return net.to(device, memory_format=torch.channels_last)


def build_loop(settings: dict[str, Any], loader: Loader, device: torch.device) -> TrainingLoop:
    """The training loop of a run's settings at iteration 0, its net for the loader's classes and at random."""
    s = settings
    net = build_net(s["model"], loader, device, s["bits"])
    choice = OPTIMIZEES[s["optimizer"]]
    options = {name: s[name] for name in choice.options_ste if name in s}
    optimizee = choice.build(net.parameters(), lr=s["init_lr"], weight_decay=s["weight_decay"], **options)
    meta_net, meta_optimizer = _build_meta_network(s, device)
    quantizer = get_quantizer(s["quantizer"], s["bits"])
    return TrainingLoop(net, optimizee, quantizer, meta_net, meta_optimizer, s["update_order"] or "notebook")


def _build_meta_network(settings: dict[str, Any], device: torch.device) -> tuple[nn.Module | None, Adam | None]:
    """M and its optimizer (torch's Adam, gamma); None and None for STE."""
    if settings["backward"] == "STE":
        return None, None
    try:
        meta_net = META_NETWORKS.load(settings["backward"])(**meta_network_options(settings)).to(device)
    except ValueError as error:
        raise BadInput(f"--backward {settings['backward']}: {error}") from None
    decay = settings["meta_weight_decay"]
    phi = [{"params": list(meta_net.parameters())}]  # a group may be empty: an estimator with nothing to learn
    return meta_net, Adam(phi, lr=settings["meta_lr"], weight_decay=decay, bias_corrected_eps=True)
