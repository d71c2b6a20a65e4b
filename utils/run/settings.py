"""What the flags of `pretrain` and `train` come to: every setting of a run, resolved."""

from argparse import Namespace
from inspect import Parameter
from pathlib import Path
from typing import Any

from utils.choices import META_NETWORKS, OPTIMIZEES
from utils.dataset import npz_path
from utils.errors import BadInput
from utils.quantize import get_quantizer
from utils.run.record import base_model_path

META_OPTIONS = {  # flag -> the meta networks' constructor option
    "hidden_size": "hidden_size",
    "num_fc": "num_layers",
    "num_lstm": "num_lstm",
    "meta_nonlinear": "use_nonlinear",
    "meta_init": "init",
    "lstm_state": "lstm_state",
}
OF_THE_COMMAND = ("command", "function", "program", "overwrite")
LEARNED_DEFAULTS = {"meta_lr": 1e-3, "meta_lr_adjust": False, "meta_weight_decay": 0.0, "update_order": "notebook"}


def pretraining_settings(args: Namespace) -> dict[str, Any]:
    """Every setting of `pretrain`, resolved."""
    return _settings(args) | {"optimizer": "SGD-M", "momentum": 0.9}


def training_settings(args: Namespace) -> dict[str, Any]:
    """Every setting of `train`, resolved: defaults filled in, None for what the chosen method has no use for.

    Raises BadInput for bits that the quantizer does not take.
    """
    settings = _settings(args)
    try:
        get_quantizer(args.quantizer, args.bits)
    except ValueError as error:
        raise BadInput(f"-bw/--bits {args.bits}: {error}") from None
    learned, defaults = args.backward != "STE", method_defaults(args.backward)
    for flag in (*META_OPTIONS, *LEARNED_DEFAULTS):
        if flag not in defaults:
            settings[flag] = None
        elif settings[flag] is None:
            settings[flag] = defaults[flag]
    if args.pretrained is None:
        settings["pretrained"] = base_model_path(args.results_root, args.model, args.dataset)
    settings["pretrained"] = str(Path(settings["pretrained"]))
    choice = OPTIMIZEES[args.optimizer]
    if settings["weight_decay"] is None:
        settings["weight_decay"] = choice.decay_learned if learned else choice.decay_ste
    return settings if learned else settings | choice.options_ste


def method_defaults(backward: str) -> dict[str, Any]:
    """The flags that a method heeds, with their defaults. Raises BadInput for a meta network's option without one."""
    if backward == "STE":
        return {}
    taken = META_NETWORKS.options(backward)
    defaults = {flag: taken[option] for flag, option in META_OPTIONS.items() if option in taken}
    for flag, default in defaults.items():
        if default is Parameter.empty:
            raise BadInput(f"--backward {backward}: its class must give {META_OPTIONS[flag]} a default")
    return defaults | LEARNED_DEFAULTS


def meta_network_options(settings: dict[str, Any]) -> dict[str, Any]:
    """The options for the constructor of the chosen meta network, from resolved settings."""
    taken = META_NETWORKS.options(settings["backward"])
    return {option: settings[flag] for flag, option in META_OPTIONS.items() if option in taken}


def _settings(args: Namespace) -> dict[str, Any]:
    settings = {name: value for name, value in vars(args).items() if name not in OF_THE_COMMAND}
    if path := npz_path(args.dataset):
        settings["dataset"] = f"NPZ:{path.absolute()}"
    return settings
