"""The settings of `pretrain` and `train`, beside those that both have (common_settings.py); a run's record holds all of them.

Making an object resolves what depends on other settings: the defaults of the chosen method, None for what it has no use for, the
published weight decay, the base model's path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from pathlib import Path
from typing import Any, Self

from utils.choices import (
    LSTM_STATES,
    MAX_BITS,
    META_NETWORKS,
    NONLINEARITIES,
    OPTIMIZEES,
    QUANTIZERS,
    STARTS,
    UPDATE_ORDERS,
    OptimizeeChoice,
    Place,
    is_trained,
    methods,
    usual_bits,
)
from utils.errors import BadInput
from utils.files.text import counted
from utils.options.kinds import (
    FOLDER_PART,
    LAYER_PATTERN,
    PATH,
    OneOf,
    OneOfOrNone,
    Real,
    Switch,
    Whole,
)
from utils.options.options import flag, like, noted, setting, settings_of, spelling
from utils.run.common_settings import TRIAL, Settings, with_precision
from utils.run.paths import base_model_path
from utils.schedules import MOST_EPOCHS

QUANTIZER = OneOf(lambda: sorted(QUANTIZERS))
OPTIMIZER = OneOf(lambda: sorted(OPTIMIZEES))
BACKWARD = OneOf(methods)
LAYERS = Whole(1, 100)


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Settings):
    """Settings of `pretrain`, which trains the full-precision base model with SGD-M."""

    init_lr: float = like(Settings, "init_lr", default=0.1)
    epochs: int = like(Settings, "epochs", default=200)
    lr_adjust: int | str = like(Settings, "lr_adjust", default=60)
    weight_decay: float = setting(5e-4, "weight decay of W", kind=Real())
    trial: int = setting(1, "number of the trial", kind=TRIAL)
    optimizer: str = field(default="SGD-M", init=False)
    momentum: float = field(default=0.9, init=False)


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """Settings of `train`, which trains a quantized net with a fixed estimator, a learned gradient or ProxQuant.

    option: the argument of M's constructor that the setting is; learned: what only a learned gradient has, with its default.
    Raises BadInput for bits that the quantizer does not take, for a meta network whose option has no default, and for a quantizer
    or optimizee of one's own that is registered as something else than its registry takes.
    """

    quantizer: str = setting("dorefa", "quantizer of every layer's weights", "-q", kind=QUANTIZER)
    bits: int | None = setting(
        None,
        "bits per weight: dorefa and LSQ take any, BWN and BWN-F 1, ternary and TTQ 2 (default: 1; ternary, TTQ: 2)",
        "-bw",
        kind=Whole(1, MAX_BITS),
    )
    quantizer_lr: float | None = setting(
        None, "learning rate of the quantizer's own parameters, such as those of LSQ and TTQ (default: alpha)", kind=Real()
    )
    optimizer: str = setting("SGD", "optimizer of the net", "-o", kind=OPTIMIZER)
    weight_decay: float | None = setting(
        None,
        "weight decay of W (default, as published: SGD 0; SGD-M, Nesterov 5e-4; Adam, AMSGrad 5e-4 with a learned gradient, "
        "0 without)",
        kind=Real(),
    )
    backward: str = setting(
        "MultiFC",
        "how the gradient passes the quantizer: a fixed estimator, a meta network, or ProxQuant",
        "-meta",
        kind=BACKWARD,
    )
    hidden_size: int | None = setting(
        None, "M's hidden size (default: 100)", "-hidden", kind=Whole(1, 10_000), option="hidden_size"
    )
    num_fc: int | None = setting(None, "MultiFC's linear layers (default: 3)", "-nfc", kind=LAYERS, option="num_layers")
    num_lstm: int | None = setting(None, "LSTMFC's LSTM layers (default: 1)", "-nlstm", kind=LAYERS, option="num_lstm")
    meta_nonlinear: str | None = setting(
        None,
        "nonlinearity between M's linear layers: none, relu or tanh (default: none)",
        "-nonlinear",
        kind=OneOfOrNone(NONLINEARITIES),
        option="use_nonlinear",
    )
    meta_init: str | None = setting(
        None,
        "start of M: random, or identity (FC-Grad, LSTMFC: as unclipped STE; MultiFC: g_W~ = W~ g_W^) (default: random)",
        kind=OneOf(STARTS),
        option="init",
    )
    lstm_state: str | None = setting(
        None,
        "carry keeps LSTMFC's (h, c) between iterations, reset clears it (default: carry)",
        kind=OneOf(LSTM_STATES),
        option="lstm_state",
    )
    phi: str | None = setting(
        None,
        "start M with phi of this finished run, whose M must be of the same kind (default: as --meta-init says)",
        kind=PATH,
        metavar="RUN_DIR",
        learned=None,
    )
    freeze_phi_after: int | None = setting(
        None,
        "epochs after which phi is no longer trained but still used; 0: from the start (default: never)",
        kind=Whole(0, MOST_EPOCHS),
        metavar="N",
        learned=None,
    )
    meta_lr: float | None = setting(None, "gamma, the learning rate of M (default: 1e-3)", kind=Real(above=0), learned=1e-3)
    meta_lr_adjust: bool | None = setting(None, "multiply gamma by the same factor as alpha", kind=Switch(), learned=False)
    meta_weight_decay: float | None = setting(None, "weight decay of M (default: 0)", "-decay", kind=Real(), learned=0.0)
    update_order: str | None = setting(
        None,
        "order of the steps in an iteration: notebook, as for the published curves, or paper, Algorithm 1 (default: notebook)",
        kind=OneOf(UPDATE_ORDERS),
        learned="notebook",
    )
    label_smoothing: float | None = setting(
        None, "share of the target's probability that is spread evenly over all classes (default: 0)", kind=Real(most=1)
    )
    clip: float | None = setting(
        None, "clip the 2-norm of all the net's gradients together to this value (default: no clipping)", kind=Real(above=0)
    )
    exp_spec: str | None = setting(None, "added to the run's folder name", "-e", kind=FOLDER_PART)
    trial: int = setting(1, "trial number; with --seed it determines everything random", kind=TRIAL)
    pretrained: str | None = setting(
        None,
        "base model, or a run's folder to begin with its weights (default: the model that pretrain wrote); none: from scratch",
        kind=PATH,
        metavar="PATH|none",
    )
    keep: tuple[str, ...] = setting(
        (),
        "layers that stay in full precision, by patterns of their dotted names, such as conv1 fc '*.downsample.*'",
        kind=LAYER_PATTERN,
        several=True,
        metavar="PATTERN",
    )
    optimizer_options: Mapping[str, Any] | None = None  # of the optimizee beside those of every run: OptimizeeChoice.options_ste

    def __post_init__(self):
        super().__post_init__()
        self._resolve_bits()
        if not is_trained(self.quantizer) or self.quantizer_lr == self.init_lr:
            self._set("quantizer_lr", None)
        self._set("keep", tuple(sorted(set(self.keep))))
        self._check_phi()
        defaults, choice = method_defaults(self.backward), OPTIMIZEES[self.optimizer]
        if not isinstance(choice, OptimizeeChoice):
            raise BadInput(f"--optimizer {self.optimizer}: OPTIMIZEES takes an OptimizeeChoice of a class, not {choice!r}")
        learned = self.backward in META_NETWORKS
        for name in (*META_OPTIONS, *LEARNED_DEFAULTS):
            if name not in defaults or (name == "meta_init" and self.phi):
                self._set(name, None)
            elif getattr(self, name) is None:
                self._set(name, defaults[name])
        if self.weight_decay is None:
            self._set("weight_decay", choice.decay_learned if learned else choice.decay_ste)
        path = base_model_path(self.results_root, self.model, self.dataset) if self.pretrained is None else Path(self.pretrained)
        self._set("pretrained", str(path))
        self._set("label_smoothing", self.label_smoothing or None)
        if self.optimizer_options is None:
            self._set("optimizer_options", {} if learned else dict(choice.options_ste))

    def _check_phi(self) -> None:
        given = [name for name in OF_PHI if getattr(self, name) is not None]
        if given and self.backward not in META_NETWORKS:
            raise BadInput(f"{flag(given[0])}: --backward {self.backward} has no M")
        if self.phi is not None and self.meta_init is not None:
            raise BadInput(f"--phi and --meta-init {self.meta_init} exclude each other: both say where M starts")
        if self.freeze_phi_after is not None and self.freeze_phi_after >= self.epochs:
            number = f"--freeze-phi-after {self.freeze_phi_after}"
            raise BadInput(f"{number}: must be less than the run's {counted(self.epochs, 'epoch')}")

    def _resolve_bits(self) -> None:
        try:
            usual = usual_bits(self.quantizer)
            if self.bits is None:
                self._set("bits", usual)
            if self.bits == usual and isinstance(QUANTIZERS[self.quantizer], Place):
                return  # a built-in quantizer takes its own number; its class would import torch
            from utils.quantize import get_quantizer

            get_quantizer(self.quantizer, self.bits)
        except ValueError as error:
            given = [name for name in ("quantizer", "bits") if getattr(self, name) is not None]
            flags = (f"{spelling(settings_of(TrainSettings)[name])} {getattr(self, name)}" for name in given)
            raise BadInput(f"{', '.join(flags)}: {error}") from None

    @classmethod
    def from_record(cls, settings: Mapping[str, Any]) -> Self:
        """From a run's record, of an earlier commit too: a setting that it lacks is at its default, an unknown one is ignored.

        The optimizee has the options that the record names, and no others. Raises BadInput for a value that its setting does not
        accept.
        """
        present = with_precision(settings)
        known = {name: present[name] for name in settings_of(cls) if name in present}
        choice = OPTIMIZEES.get(known.get("optimizer"))
        options = {name: settings[name] for name in (choice.options_ste if choice else ()) if name in settings}
        return cls(**known, optimizer_options=options)

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, as in run.json: the optimizee's options stand beside the others."""
        settings = super().as_dict()
        return settings | settings.pop("optimizer_options")

    def arguments(self) -> list[str]:
        """The arguments of `main.py train` that give these settings; what would be the default is left out."""
        shown = ["model", "dataset", "quantizer", "bits", "optimizer", "backward", "trial", "data_root", "results_root"]
        return self.flags([*shown, *self.unusual(shown)])

    def meta_network_options(self) -> dict[str, Any]:
        """The options for the constructor of the chosen meta network."""
        taken = META_NETWORKS.options(self.backward)
        values = {option: getattr(self, name) for name, option in META_OPTIONS.items() if option in taken}
        return {option: value for option, value in values.items() if option != META_OPTIONS["meta_init"] or value is not None}


OF_PHI = ("phi", "freeze_phi_after")  # refused with a fixed estimator, where the others of a learned gradient have no effect
META_OPTIONS = noted(TrainSettings, "option")  # setting -> the argument of the meta networks' constructors
LEARNED_DEFAULTS = noted(TrainSettings, "learned")  # setting -> its default with a learned gradient


def method_defaults(backward: str) -> dict[str, Any]:
    """The settings that only some methods have, of a method, with their defaults: {} for all but the meta networks.

    Raises BadInput for a meta network whose constructor gives one of them no default, or one that the setting does not take, or
    the nonlinearity another one than None.
    """
    if backward not in META_NETWORKS:
        return {}
    taken = META_NETWORKS.options(backward)
    defaults = {name: taken[option] for name, option in META_OPTIONS.items() if option in taken}
    kinds = {name: field.metadata["kind"] for name, field in settings_of(TrainSettings).items()}
    for name, default in defaults.items():
        if default is Parameter.empty:
            raise BadInput(f"--backward {backward}: its class must give {META_OPTIONS[name]} a default")
        if name == "meta_nonlinear" and default is not None:  # `--meta-nonlinear none` could not choose another value
            raise BadInput(f"--backward {backward}: its class's default of {META_OPTIONS[name]} must be None")
        try:
            if default is not None:
                kinds[name].check(default)
        except ValueError as error:
            raise BadInput(f"--backward {backward}: its class's default of {META_OPTIONS[name]} {error}") from None
    return defaults | LEARNED_DEFAULTS
