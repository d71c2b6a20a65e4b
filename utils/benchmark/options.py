"""What a `benchmark` command is told. Imports no torch, so that the parser starts at once."""

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from utils.choices import FLOAT32, META_NETWORKS, NONLINEARITIES, methods
from utils.errors import BadInput
from utils.options.kinds import PATH, Kind, Switch, Whole
from utils.options.options import Options, flag, like, setting
from utils.run.common_settings import BATCH_SIZE, MODEL, Settings
from utils.run.settings import OPTIMIZER, QUANTIZER

PLAIN = "plain"  # the full-precision net in torch's default memory format with torch.optim.SGD
ITERATIONS = {"cpu": 5, "cuda": 100}  # of a method in a round, where none are given


@dataclass(frozen=True)
class Method:
    """One way to train: "plain", "STE", or a meta network with its nonlinearity, e.g. MultiFC:tanh."""

    name: str

    @property
    def backward(self) -> str:
        return self.name.partition(":")[0]

    @property
    def nonlinear(self) -> str | None:
        return self.name.partition(":")[2] or None

    @property
    def exists(self) -> bool:
        """Whether there is such a method, and it takes such a nonlinearity."""
        if self.backward not in (PLAIN, *methods()) or self.name.endswith(":"):
            return False
        if self.nonlinear is None:
            return True
        takes = self.backward in META_NETWORKS and "use_nonlinear" in META_NETWORKS.options(self.backward)
        return takes and self.nonlinear in NONLINEARITIES


class MethodName(Kind):
    """A Method by its name."""

    @property
    def accepts(self) -> str:
        return f"plain, {', '.join(methods())}, or such as MultiFC:tanh"

    def _checked(self, value: Any) -> str:
        if not isinstance(value, str) or not Method(value).exists:
            raise ValueError
        return value


class Turn(NamedTuple):
    """A method and the precision of its products."""

    method: str
    precision: str


ROUNDS = Whole(1, 1_000_000)
INSTEAD = "instead of timing one run after the other"


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(Options):
    """What is timed, counted or run at once, how often, and where the measurements go.

    Raises BadInput for options that do not go together, a value that is there twice, and a file whose folder is not there.
    """

    models: tuple[str, ...] = setting(("ResNet20",), "networks", kind=MODEL, several=True)
    batch_sizes: tuple[int, ...] = setting((128,), "images per batch", kind=BATCH_SIZE, several=True)
    quantizers: tuple[str, ...] = setting(("dorefa",), "quantizers", kind=QUANTIZER, several=True)
    methods: tuple[str, ...] = setting(
        (PLAIN, "STE", "FC-Grad", "MultiFC"),
        "plain (full precision in torch's default memory format) or a --backward of train; MultiFC:tanh: with this nonlinearity",
        kind=MethodName(),
        several=True,
    )
    optimizer: str = setting("SGD", "optimizer of the quantized nets; plain's is SGD", "-o", kind=OPTIMIZER)
    repeats: int = setting(7, "rounds in which the methods take turns", kind=ROUNDS)
    iterations: int | None = setting(None, "iterations of a method in a round (default: 5 on the CPU, 100 on CUDA)", kind=ROUNDS)
    device: str = like(Settings, "device")
    precision: tuple[str, ...] = like(Settings, "precision", default=(FLOAT32,), several=True)
    eager: bool = like(Settings, "eager")
    scale: bool = setting(False, "count operations and bytes per iteration and print lower bounds", kind=Switch(), group=INSTEAD)
    at_once: tuple[int, ...] = setting(
        (),
        "time N runs at once on the device, a process each, all methods in turn",
        kind=Whole(1, 1000),
        several=True,
        metavar="N",
        group=INSTEAD,
    )
    out: str | None = setting(
        None, "write the measurements with device, versions and commit into this file", kind=PATH, metavar="JSON"
    )

    def __post_init__(self):
        super().__post_init__()
        for name in ("models", "batch_sizes", "quantizers", "methods", "precision", "at_once"):
            values = getattr(self, name)
            if twice := [value for index, value in enumerate(values) if value in values[:index]]:
                raise BadInput(f"{flag(name)}: {twice[0]} is listed twice")
        if self.scale and self.at_once:
            raise BadInput("--at-once: cannot be combined with --scale")
        if self.scale and self.out:
            raise BadInput("--out: --scale only prints")
        if self.out and os.path.isdir(self.out):
            raise BadInput(f"--out {self.out}: this is a folder")
        if self.out and not os.path.isdir(Path(self.out).absolute().parent):
            raise BadInput(f"--out {self.out}: its folder does not exist")

    @property
    def setups(self) -> list[tuple[str, int, str]]:
        """What is measured: every net with every batch size and quantizer."""
        return list(product(self.models, self.batch_sizes, self.quantizers))

    @property
    def turns(self) -> list[Turn]:
        """What takes turns: every method in every precision."""
        return [Turn(*pair) for pair in product(self.methods, self.precision)]
