"""What a run's settings stand for: its loaders, its net and its training loop."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from meta_utils.adam import Adam
from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.training import TrainingLoop
from utils.batches import Loader
from utils.choices import ESTIMATORS, META_NETWORKS, MODELS, OPTIMIZEES, PROXIMAL, STE
from utils.dataset import get_dataloader
from utils.errors import BadInput
from utils.quantize import get_quantizer
from utils.run.identity import DATA, data_digest, program_contents
from utils.run.settings import Settings, TrainSettings

TEST_BATCH_SIZE = 100


def load_data(settings: Settings, data_seed: int, device: torch.device) -> tuple[Loader, Loader]:
    """The training and the test loader."""
    s = settings
    options = {"data_root": s.data_root, "device": device, "loader": s.loader, "workers": s.workers}
    train_loader = get_dataloader(s.dataset, "train", s.batch_size, seed=data_seed, drop_last=s.drop_last, **options)
    return train_loader, get_dataloader(s.dataset, "test", TEST_BATCH_SIZE, **options)


def contents_of(train_loader: Loader, test_loader: Loader, program: Path) -> dict[str, str]:
    """What a run reads, by content, as in Identity."""
    return {DATA: data_digest(train_loader.image_set, test_loader.image_set)} | program_contents(program)


def build_net(model: str, loader: Loader, device: torch.device, bits: int = 1) -> nn.Module:
    """A net for the loader's classes, on the device, channels last in memory, which is faster."""
    net = MODELS.load(model)(bitW=bits, num_classes=loader.image_set.num_classes)
    return net.to(device, memory_format=torch.channels_last)


def build_loop(
    settings: TrainSettings, loader: Loader, device: torch.device, load: Callable[[nn.Module], None] | None = None
) -> TrainingLoop:
    """The training loop of a run's settings at iteration 0, its net for the loader's classes.

    load: puts the base model's weights into the net, before a quantizer with parameters begins with them; None: they are random.
    """
    s = settings
    net = build_net(s.model, loader, device, s.bits)
    if load is not None:
        load(net)
    try:
        quantizer = install_quantizer(net, get_quantizer(s.quantizer, s.bits))
    except ValueError as error:
        raise BadInput(f"--quantizer {s.quantizer}: {error}") from None
    options = {"lr": s.init_lr, "weight_decay": s.weight_decay, **s.optimizer_options}
    optimizee = OPTIMIZEES[s.optimizer].build(parameter_groups(net, s.quantizer_lr), **options)
    how = {"iterations": s.epochs * len(loader), "clip": s.clip, "criterion": criterion_of(s)}
    if s.backward in META_NETWORKS:
        meta_net, meta_optimizer = _build_meta_network(s, device)
        return TrainingLoop(net, optimizee, quantizer, meta_net, meta_optimizer, s.update_order, **how)
    if s.backward in PROXIMAL:
        prox = PROXIMAL.load(s.backward)(quantizer, how["iterations"])
        how |= {"after_step": [prox], "quantized_forward": False}
    elif s.backward != STE:  # the quantizers' own
        how["estimator"] = ESTIMATORS.load(s.backward)
    try:
        return TrainingLoop(net, optimizee, quantizer, **how)
    except ValueError as error:
        raise BadInput(f"--backward {s.backward}: {error}") from None


def criterion_of(settings: TrainSettings) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of the settings: cross-entropy, with label smoothing where it is on."""
    smoothing = settings.label_smoothing
    return partial(F.cross_entropy, label_smoothing=smoothing) if smoothing else F.cross_entropy


def _build_meta_network(settings: TrainSettings, device: torch.device) -> tuple[nn.Module, Adam]:
    """M and its optimizer (torch's Adam, gamma)."""
    s = settings
    try:
        meta_net = META_NETWORKS.load(s.backward)(**s.meta_network_options()).to(device)
    except ValueError as error:
        raise BadInput(f"--backward {s.backward}: {error}") from None
    phi = [{"params": list(meta_net.parameters())}]  # a group may be empty: an estimator with nothing to learn
    return meta_net, Adam(phi, lr=s.meta_lr, weight_decay=s.meta_weight_decay, bias_corrected_eps=True)
