"""Builds a run's loaders, net and training loop from its settings."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import isroutine
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from meta_utils.adam import Adam
from meta_utils.install import install_quantizer, parameter_groups
from meta_utils.metaquantize import metaquantize
from meta_utils.training import TrainingLoop
from utils.batches import Loader
from utils.choices import ESTIMATORS, FLOAT32, META_NETWORKS, OPTIMIZEES, PROXIMAL, STE, Place
from utils.dataset import difference, get_dataloader, hold_out, load_images, make_loader
from utils.environment import product_dtype
from utils.errors import BadInput, BadPart, shortened
from utils.quantize import get_quantizer
from utils.quantizers.quantizer import Quantizer
from utils.run.common_settings import Settings
from utils.run.identity import DATA, data_digest, program_contents
from utils.run.nets import fault_of_state, plain_net
from utils.run.settings import TrainSettings

TEST_BATCH_SIZE = 100


class Loaders(NamedTuple):
    """A run's batches. validation: the training images that are held out; None without --validation."""

    train: Loader
    test: Loader
    validation: Loader | None = None


def load_data(settings: Settings, data_seed: int, device: torch.device) -> Loaders:
    """The loaders of a run's settings. data_seed: of the order and the augmentation of the training images.

    Raises BadInput and BadPart as load_images does, and BadPart for two splits of one's own that do not go together.
    """
    s = settings
    options = {"device": device, "workers": s.workers}
    images = load_images(s.dataset, "train", s.data_root)
    chosen, held_out = hold_out(images, s.validation, s.seed) if s.validation else (None, None)
    train_options = {"seed": data_seed, "drop_last": s.drop_last, "chosen": chosen}
    train = make_loader(s.loader, images, "train", s.batch_size, **train_options, **options)
    validation = (
        make_loader(s.loader, images, "validation", TEST_BATCH_SIZE, chosen=held_out, **options) if s.validation else None
    )
    test = get_dataloader(s.dataset, "test", TEST_BATCH_SIZE, data_root=s.data_root, loader=s.loader, **options)
    if fault := difference(images, test.image_set):
        raise BadPart(f"--dataset {s.dataset}: the train set has {fault[0]}, and the test set {fault[1]}")
    return Loaders(train, test, validation)


def contents_of(loaders: Loaders, program: Path) -> dict[str, str]:
    """What a run reads, by content, as in Identity; the data set as a whole, whatever is held out of it."""
    return {DATA: data_digest(loaders.train.image_set, loaders.test.image_set)} | program_contents(program)


def build_net(
    model: str,
    loader: Loader,
    device: torch.device,
    keep: Sequence[str] = (),
    precision: str = FLOAT32,
) -> nn.Module:
    """A net for the loader's images and classes, on the device, channels last in memory, which is faster on the CPU.

    keep: patterns of the layers that stay in full precision. precision: of its products. Raises BadInput for a net that cannot
    take the images, or whose layers cannot be quantized, and for a pattern that matches none of them.
    """
    net = plain_net(model, loader.image_set.num_classes, one_image=loader.training and loader.smallest_batch == 1)
    try:
        net = metaquantize(net, keep, autocast=product_dtype(precision))
    except ValueError as error:
        patterns = f" --keep {shortened(' '.join(keep), 100)}" if keep else ""
        raise BadInput(f"-m {model}{patterns}: {error}") from None
    return _channels_last(net.to(device))


def _channels_last(net: nn.Module) -> nn.Module:
    """The net with its parameters and buffers of four axes channels last in memory; torch's own `to` fails on five axes."""
    for tensor in chain(net.parameters(), net.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return net


def build_loop(
    settings: TrainSettings, loader: Loader, device: torch.device, load: Callable[[nn.Module], None] | None = None
) -> TrainingLoop:
    """The training loop of a run's settings at iteration 0, its net for the loader's classes.

    load: puts the base model's weights into the net, before a quantizer with parameters begins with them; None: they are random.
    """
    s = settings
    net = build_net(s.model, loader, device, s.keep, s.precision)
    if load is not None:
        load(net)
    try:
        quantizer = install_quantizer(net, get_quantizer(s.quantizer, s.bits))
        if fault := fault_of_state(net):
            raise ValueError(f"its {fault}")
    except ValueError as error:
        raise BadInput(f"--quantizer {s.quantizer}: {error}") from None
    options = {"lr": s.init_lr, "weight_decay": s.weight_decay, **s.optimizer_options}
    try:
        optimizee = OPTIMIZEES[s.optimizer].build(parameter_groups(net, s.quantizer_lr), **options)
    except (ValueError, TypeError) as error:  # TypeError: a class of the user's own whose constructor takes something else
        raise BadInput(f"--optimizer {s.optimizer}: {error}") from None
    criterion = partial(F.cross_entropy, label_smoothing=s.label_smoothing or 0.0)
    loop_options = {"iterations": s.epochs * len(loader), "clip": s.clip, "criterion": criterion}
    try:
        if s.backward in META_NETWORKS:
            meta_net, meta_optimizer = _build_meta_network(s, device)
            if s.freeze_phi_after is not None:
                loop_options["freeze_phi_after"] = s.freeze_phi_after * len(loader)
            return TrainingLoop(net, optimizee, quantizer, meta_net, meta_optimizer, s.update_order, **loop_options)
        if s.backward in PROXIMAL:
            prox = _build_proximal(s.backward, quantizer)
            loop_options |= {"after_step": [prox], "quantized_forward": False}
        elif s.backward != STE:  # the quantizers' own
            loop_options["estimator"] = ESTIMATORS.load(s.backward)
        return TrainingLoop(net, optimizee, quantizer, **loop_options)
    except (ValueError, TypeError) as error:  # TypeError: a class of the user's own whose constructor takes something else
        raise BadInput(f"--backward {s.backward}: {error}") from None


def _build_proximal(name: str, quantizer: Quantizer) -> Callable[[TrainingLoop], None]:
    """The call after every update. Raises ValueError where an instance is registered in the place of its class."""
    if not (isinstance(PROXIMAL[name], (type, Place)) or isroutine(PROXIMAL[name])):
        raise ValueError(f"PROXIMAL takes a class that is made from the quantizer, not {PROXIMAL[name]!r}")
    return PROXIMAL.load(name)(quantizer)


def _build_meta_network(settings: TrainSettings, device: torch.device) -> tuple[nn.Module, Adam]:
    """M and its optimizer (torch's Adam, gamma)."""
    s = settings
    meta_net = META_NETWORKS.load(s.backward)(**s.meta_network_options()).to(device)
    if fault := fault_of_state(meta_net):
        raise ValueError(f"its {fault}")
    meta_net.product_dtype = product_dtype(s.precision)
    phi = [{"params": list(meta_net.parameters())}]  # a group may be empty: an estimator with nothing to learn
    return meta_net, Adam(phi, lr=s.meta_lr, weight_decay=s.meta_weight_decay, bias_corrected_eps=True)
