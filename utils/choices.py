"""Everything that is chosen by name. Adding a quantizer, meta network, optimizee, net or data set is one class and one line here.

A built-in class is named by its place, so that the command line and the report know all names without importing torch. A program
of one's own registers its classes themselves: `QUANTIZERS["sign"] = Sign`.
"""

import re
from collections import UserDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import Parameter, signature
from itertools import chain
from pathlib import Path
from typing import Any

from utils.errors import shortened
from utils.files.checks import MAX_NAME, is_name

STARTS = ("random", "identity")  # of a meta network's parameters phi
NONLINEARITIES = ("relu", "tanh")  # between a meta network's linear layers; None: nothing between them
LSTM_STATES = ("carry", "reset")  # LSTMFC's (h, c) from iteration to iteration
UPDATE_ORDERS = ("notebook", "paper")  # of the training loop
PRECISIONS = FLOAT32, TF32, BF16 = ("float32", "tf32", "bf16")  # of products and convolutions
MAX_BITS = 8  # per weight
STE = "STE"
RESIDENT = "resident"  # the loader that is the default
TORCHVISION = "torchvision:"  # before the name of a classifier of torchvision.models


class Place:
    """Where a class or function of this project is ("module:name"), and which options it takes, with their defaults."""

    def __init__(self, target: str, **options: Any):
        self.target, self.options = target, options

    def load(self) -> Any:
        """Imports it."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


class TrainedPlace(Place):
    """Of a quantizer with parameters of its own."""


class Registry(UserDict[str, Any]):
    """Name -> a class or function, or the Place of one. The name stands in the run's record and in its folder's name.

    Raises ValueError, when one is registered, for a name that is not text, is empty or longer than 100 characters, begins with
    '.', '-' or a space, or has a '/' or a character that cannot be printed, and for the name of a built-in one: a run that was
    trained with another class of that name would pass as one of this project's. Likewise for a name in another registry of
    `beside`, the registries whose names are values of one flag.
    """

    def __init__(self, built_in: Mapping[str, Any]):
        self._built_in: Collection[str] = ()
        self.beside: Collection[Registry] = ()
        super().__init__(built_in)
        self._built_in = frozenset(built_in)

    def __setitem__(self, name: str, entry: Any) -> None:
        if not is_name(name) or "/" in name or name[0] in ".- ":
            accepted = f"1 to {MAX_NAME} printable characters without '/', the first of them no '.', '-' or space"
            raise ValueError(f"a registered name must be {accepted}, not {shortened(repr(name))}")
        if name in self._built_in:
            raise ValueError(f"{name} is the name of a built-in one: register your own under another name")
        if any(name in registry for registry in self.beside if registry is not self):
            raise ValueError(f"{name} is the name of a method in another registry: register your own under another name")
        super().__setitem__(name, entry)

    def load(self, name: str) -> Any:
        """The class or function of a name. Raises KeyError for an unknown name."""
        entry = self[name]
        return entry.load() if isinstance(entry, Place) else entry

    def options(self, name: str) -> dict[str, Any]:
        """The options that it takes, with their defaults (Parameter.empty for one without)."""
        entry = self[name]
        if isinstance(entry, Place):
            return dict(entry.options)
        taken = signature(entry).parameters.values()
        return {p.name: p.default for p in taken if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)}


class EstimatorRegistry(Registry):
    """Name -> an Estimator, or the Place of a built-in one's class, which is made when it is first loaded."""

    def load(self, name: str) -> Any:
        """The estimator of a name. Raises KeyError for an unknown name."""
        if isinstance(self[name], Place):
            self.data[name] = super().load(name)()
        return self[name]


class Nets(Registry):
    """As Registry, and torchvision:NAME without an entry of its own: names that begin so are refused."""

    def __setitem__(self, name: str, entry: Any) -> None:
        if isinstance(name, str) and name.startswith(TORCHVISION):
            raise ValueError(f"{shortened(name)} is a name of torchvision's nets: register your own under another name")
        super().__setitem__(name, entry)

    def load(self, name: str) -> Any:
        """The function of a name. Raises KeyError for an unknown name, ValueError where torchvision has no such classifier."""
        if classifier := torchvision_name(name):
            return Place("models_CIFAR.torchvision_nets:torchvision_net").load()(classifier)
        return super().load(name)


@dataclass(frozen=True)
class OptimizeeChoice:
    """An optimizee and its defaults: weight decay with a learned gradient and with a fixed one, and the class's other options.

    options_ste: options that a fixed gradient has beside them.
    """

    optimizee: Any  # a subclass of meta_utils.optimizee.Optimizee, or its Place
    decay_learned: float
    decay_ste: float
    options: Mapping[str, Any] = field(default_factory=dict)
    options_ste: Mapping[str, Any] = field(default_factory=dict)

    def build(self, params: Any, **options: Any) -> Any:
        """The optimizee of some parameters; options: lr and weight_decay, and others of the class."""
        make = self.optimizee.load() if isinstance(self.optimizee, Place) else self.optimizee
        return make(params, **self.options, **options)


QUANTIZERS = Registry(  # (bits) -> Quantizer, see utils/quantizers/quantizer.py
    {
        "dorefa": Place("utils.quantize:DoReFa", bits=1),
        "BWN": Place("utils.quantize:BWN", bits=1),
        "BWN-F": Place("utils.quantize:BWNF", bits=1),
        "ternary": Place("utils.quantize:Ternary", bits=2),
        "LSQ": TrainedPlace("utils.quantizers.trained:LSQ", bits=1),
        "TTQ": TrainedPlace("utils.quantizers.trained:TTQ", bits=2),
    }
)

META_NETWORKS = Registry(  # (options) -> MetaNetwork, see meta_utils/meta_network.py
    {
        "FC-Grad": Place("meta_utils.meta_network:MetaFC", hidden_size=100, use_nonlinear=None, init="random"),
        "MultiFC": Place(
            "meta_utils.meta_network:MetaDesignedMultiFC", hidden_size=100, num_layers=3, use_nonlinear=None, init="random"
        ),
        "LSTMFC": Place("meta_utils.meta_network:MetaLSTMFC", hidden_size=100, num_lstm=1, lstm_state="carry", init="random"),
    }
)

_SGD, _ADAM = Place("meta_utils.SGD:SGD"), Place("meta_utils.adam:Adam")
_TORCHS_EPS = {"bias_corrected_eps": True}  # torch.optim's Adam; the published runs' Adam with a learned gradient differs
OPTIMIZEES = Registry(  # name -> OptimizeeChoice
    {
        "SGD": OptimizeeChoice(_SGD, 0.0, 0.0),
        "SGD-M": OptimizeeChoice(_SGD, 5e-4, 5e-4, {"momentum": 0.9}),
        "Nesterov": OptimizeeChoice(_SGD, 5e-4, 5e-4, {"momentum": 0.9, "nesterov": True}),
        "Adam": OptimizeeChoice(_ADAM, 5e-4, 0.0, {}, _TORCHS_EPS),
        "AMSGrad": OptimizeeChoice(_ADAM, 5e-4, 0.0, {"amsgrad": True}, _TORCHS_EPS),
    }
)

ESTIMATORS = EstimatorRegistry(  # see utils/quantizers/discretize.py
    {
        STE: Place("utils.quantizers.discretize:STE"),
        "STE-identity": Place("meta_utils.estimators:IdentitySTE"),
        "ApproxSign": Place("meta_utils.estimators:ApproxSign"),
        "EDE": Place("meta_utils.estimators:EDE"),
        "ReSTE": Place("meta_utils.estimators:ReSTE"),
        "EWGS": Place("meta_utils.estimators:EWGS"),
        "BinaryRelax": Place("meta_utils.estimators:BinaryRelax"),
    }
)

PROXIMAL = Registry(  # (quantizer) -> a call after every update that moves W, see meta_utils/prox_quant.py
    {"ProxQuant": Place("meta_utils.prox_quant:ProxQuant")}
)

METHODS = (ESTIMATORS, META_NETWORKS, PROXIMAL)
ESTIMATORS.beside = META_NETWORKS.beside = PROXIMAL.beside = METHODS

MODELS = Nets(  # (num_classes) -> a plain net, images (B, 3, 32, 32) -> logits (B, num_classes); see utils/run/nets.py
    {f"ResNet{depth}": Place(f"models_CIFAR.resnet:resnet{depth}", num_classes=10) for depth in (20, 32, 44, 56, 110)}
    | {
        "VGG-small": Place("models_CIFAR.vgg:VGGSmall", num_classes=10),
        "LABNet": Place("models_CIFAR.labnet:LABNet", num_classes=10),
    }
)

DATASETS = Registry(  # (split, root) -> ImageSet, see utils/dataset.py
    {
        "CIFAR10": Place("utils.dataset:cifar10"),
        "CIFAR100": Place("utils.dataset:cifar100"),
        "Digits": Place("utils.dataset:digits"),
    }
)

LOADERS = Registry(  # (image_set, split, batch_size, ...) -> Loader, see utils/batches.py
    {RESIDENT: Place("utils.batches:ResidentLoader"), "torchvision": Place("utils.batches:TorchvisionLoader")}
)


def methods() -> tuple[str, ...]:
    """How weights behind a quantizer can be trained: with a fixed estimator, a meta network, or a proximal step."""
    return tuple(chain(*METHODS))


def is_fixed(backward: str) -> bool:
    """Whether a method is known to have no M: a fixed estimator, or a proximal step."""
    return backward in ESTIMATORS or backward in PROXIMAL


def torchvision_name(model: str) -> str | None:
    """The classifier of the net torchvision:NAME; None for another name. Whether torchvision has it, `MODELS.load` says."""
    found = re.fullmatch(f"{TORCHVISION}([A-Za-z_][A-Za-z0-9_]{{0,79}})", model)
    return found[1] if found else None


def is_net(name: Any) -> bool:
    """Whether something is the name of a registered net, or torchvision:NAME."""
    return isinstance(name, str) and (name in MODELS or torchvision_name(name) is not None)


def usual_bits(quantizer: str) -> int:
    """A quantizer's own number of bits: the default of its class.

    Raises ValueError where a quantizer, or what cannot be called, is registered in the place of a class.
    """
    entry = QUANTIZERS[quantizer]
    is_class = isinstance(entry, (type, Place))
    if not is_class and (hasattr(entry, "quantize") or not callable(entry)):
        raise ValueError(f"{quantizer} is registered as {shortened(repr(entry))}, and not as a class that makes a quantizer")
    bits = QUANTIZERS.options(quantizer).get("bits")
    return bits if isinstance(bits, int) else 1


def is_trained(quantizer: str) -> bool:
    """Whether a quantizer has parameters of its own, which `start` sets up (utils/quantizers/trained.py)."""
    entry = QUANTIZERS[quantizer]
    return isinstance(entry, TrainedPlace) or hasattr(entry, "start")


def npz_path(dataset_name: str) -> Path | None:
    """The file of the data set NPZ:path; None for another name."""
    return Path(dataset_name.removeprefix("NPZ:")) if dataset_name.startswith("NPZ:") else None
