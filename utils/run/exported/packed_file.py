"""The file of a net with packed weights (.safetensors): made from a net, written as bytes, read, checked and loaded.

For each quantized weight NAME it holds NAME.codes and NAME.levels (packed.py), for everything else of the state dict the tensor
itself: float32, counters int64. The metadata are those of about.py and, for each quantized weight, its shape, view and bits.
The README has a reader that needs numpy and safetensors alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from meta_utils.metaquantize import plain_copy
from utils.errors import BadInput, first_line, shortened
from utils.files import strict_json
from utils.files.checks import POSITIVE, Check, each, is_name, list_of, object_of
from utils.files.look import is_file
from utils.quantizers.quantizer import Quantizer
from utils.run.exported.about import DIGEST, About, export_digest
from utils.run.exported.packed import MOST_BITS, Packed, View, code_bytes, pack, unpack
from utils.run.folder.finite import fault_of_weights

CODES, LEVELS = ".codes", ".levels"
LONGEST_PARAMETER_NAME = 1000  # characters of a parameter's name
MOST_AXES = 16
SIZES = Check("a list of sizes", lambda value: list_of(POSITIVE).holds(value) and 0 < len(value) <= MOST_AXES)
BITS = Check(f"1 to {MOST_BITS}", lambda value: type(value) is int and 1 <= value <= MOST_BITS)
LAYER = object_of({"shape": SIZES, "view": SIZES, "bits": BITS}, exact=True)
DTYPES = ("F64", "F32", "I64", "I32", "I16", "I8", "U8", "BOOL")  # safetensors' names of those that NumPy has, too


def _is_layer(value: Any) -> bool:
    return LAYER.holds(value) and prod(value["shape"]) == prod(value["view"])


MORE = {  # beside the fields of About
    "layers": each(Check("shape, view and bits", _is_layer)),
    "tied": each(Check("a parameter's name", lambda value: is_name(value, LONGEST_PARAMETER_NAME))),
}


@dataclass(frozen=True)
class PackedFile:
    """A net's packed weights. weights: by parameter name; others: the rest by name; tied: other names of either -> the name."""

    about: About
    weights: Mapping[str, Packed]
    tied: Mapping[str, str]
    others: Mapping[str, np.ndarray]

    @classmethod
    def of_net(cls, net: nn.Module, quantizer: Quantizer, about: About) -> "PackedFile":
        """The weights of a metaquantized net. Raises BadInput, naming the layer, for one with too many distinct values."""
        plain = plain_copy(net, quantizer)
        state, tied = plain.state_dict(), _tied(plain)
        weights = {}
        for layer in net.meta.layers:
            try:
                weights[layer.uses[0]] = pack(state[layer.uses[0]].cpu().numpy(), layer.filters)
            except ValueError as error:
                raise BadInput(f"{layer.name} cannot be packed: {error}") from None
        rest = state.keys() - weights.keys() - tied.keys()
        if unknown := [name for name in sorted(rest) if state[name].dtype == torch.bfloat16]:
            raise BadInput(f"{unknown[0]} cannot be written: NumPy has no bfloat16")
        others = {name: value.cpu().contiguous().numpy() for name, value in state.items() if name in rest}
        return cls(about, weights, tied, others)

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(weight.nbytes for weight in self.weights.values()) + sum(array.nbytes for array in self.others.values())

    def to_bytes(self) -> bytes:
        """The file's content."""
        layers = {n: {"shape": list(w.shape), "view": list(w.view), "bits": w.bits} for n, w in self.weights.items()}
        texts = self.about.texts() | {"layers": strict_json.dumps(layers), "tied": strict_json.dumps(dict(self.tied))}
        arrays = dict(self.others)
        for name, weight in self.weights.items():
            arrays |= {name + CODES: weight.codes, name + LEVELS: np.ascontiguousarray(weight.levels)}
        texts[DIGEST] = strict_json.dumps(export_digest(texts, sorted(arrays.items())))
        return save(arrays, texts)

    @classmethod
    def read(cls, path: Path) -> "PackedFile":
        """A file's content, whose parts fit one another; takes memory for what the file holds, not for what it claims.

        Raises BadInput where it is no such file, or damaged.
        """
        if not is_file(path):
            raise BadInput(f"{path} is not a file")
        try:
            with safe_open(path, "np") as file:
                return cls._of(file)
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{path} is not a readable safetensors file: {shortened(first_line(error))}") from None
        except ValueError as error:
            raise BadInput(f"{path} cannot be used: {shortened(str(error), 400)}") from None

    @classmethod
    def _of(cls, file: Any) -> "PackedFile":
        texts = file.metadata() or {}
        about, more = About.of(texts, MORE)
        names = list(file.keys())
        if wrong := sorted({name + part for name in more["layers"] for part in (CODES, LEVELS)} - set(names)):
            raise ValueError(f"it lacks {wrong[0]}")
        if other := [name for name in names if file.get_slice(name).get_dtype() not in DTYPES]:
            raise ValueError(f"{shortened(other[0])} is {file.get_slice(other[0]).get_dtype()}, which no export has")
        arrays = {name: file.get_tensor(name) for name in names}
        if export_digest(texts, sorted(arrays.items())) != strict_json.loads(texts[DIGEST]):
            raise ValueError("it is damaged: its content does not fit its digest")
        weights = {}
        for name, layer in more["layers"].items():
            shape, view = tuple(layer["shape"]), tuple(layer["view"])
            weights[name] = Packed(shape, view, layer["bits"], arrays.pop(name + CODES), arrays.pop(name + LEVELS))
            if wrong := _fault_of(weights[name]):
                raise ValueError(f"{name}{wrong}")
        return cls(about, weights, more["tied"], arrays)

    def check(self, net: nn.Module) -> None:
        """Raises ValueError, naming the first, where the tensors are not those of a metaquantized net."""
        own = net.state_dict()
        layers = {layer.uses[0]: layer for layer in net.meta.layers}
        tied = _tied(net)
        for names, wanted, what in (
            (self.weights, layers, "a quantized weight"),
            (self.tied, tied, "another name of a tensor"),
            (self.others, own.keys() - layers.keys() - tied.keys(), "in full precision"),
        ):
            if odd := sorted(names.keys() ^ set(wanted)):
                where = ("in the file, but not in this net", "in this net, but not in the file")[odd[0] in wanted]
                raise ValueError(f"{shortened(odd[0])} is {what} {where}")
        if wrong := sorted(name for name in tied if self.tied[name] != tied[name]):
            raise ValueError(f"{wrong[0]} is not {self.tied[wrong[0]]} in this net")
        for name, layer in layers.items():
            weight, view = self.weights[name], View.of(layer.weight.shape, layer.filters)
            if weight.shape != tuple(layer.weight.shape):
                raise ValueError(f"{name} has shape {weight.shape}, not {tuple(layer.weight.shape)}")
            if weight.view != view.shape or weight.levels.shape[:-1] not in (view.one_table, view.table_per_channel):
                raise ValueError(f"{name} has levels of shape {weight.levels.shape} for {weight.view}")
        for name, array in self.others.items():
            if array.shape != tuple(own[name].shape):
                raise ValueError(f"{name} has shape {array.shape}, not {tuple(own[name].shape)}")
            if torch.from_numpy(array).dtype != own[name].dtype:
                raise ValueError(f"{name} is {array.dtype}, not {str(own[name].dtype).removeprefix('torch.')}")

    @torch.no_grad()
    def load_into(self, net: nn.Module) -> None:
        """Gives a metaquantized net W_hat as its weights, and everything else. The weights need no gradient, as W_hat of a run's
        evaluation needs none: torch multiplies otherwise, and rounds otherwise, where one does.

        Raises ValueError as `check` does, for numbers that no net computes with, and for a code beyond its levels.
        """
        self.check(net)
        own = net.state_dict()
        others = {name: torch.from_numpy(array) for name, array in self.others.items()}
        if fault := fault_of_weights(others):
            raise ValueError(fault)
        for name, value in others.items():
            own[name].copy_(value)
        net.meta.gather()
        own = net.state_dict()
        for name, packed in self.weights.items():
            W: Tensor = own[name] if own[name].device.type == "cpu" else torch.empty_like(own[name], device="cpu")
            try:
                unpack(packed, W.numpy())
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            own[name].copy_(W)
        for layer in net.meta.layers:
            layer.weight.requires_grad_(False)


def _tied(net: nn.Module) -> dict[str, str]:
    """Names in the state dict under which a tensor stands again, of a shared parameter or module -> its first name."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in net.state_dict(keep_vars=True).items()}
    return {name: other for name, other in names.items() if name != other}


def _fault_of(weight: Packed) -> str | None:
    """What keeps codes and levels from being those of a weight of this shape, in words that follow its name."""
    codes, levels, count = weight.codes, weight.levels, prod(weight.shape)
    if codes.dtype != np.uint8 or codes.shape != (code_bytes(count, weight.bits),):
        return f"{CODES} are {codes.dtype} {codes.shape}, not {count} codes of {weight.bits} bits as bytes"
    if levels.dtype != np.float32 or levels.ndim != len(weight.view) + 1 or not 1 <= levels.shape[-1] <= 2**weight.bits:
        return f"{LEVELS} are {levels.dtype} {levels.shape}, not up to {2**weight.bits} levels in float32"
    return None if np.isfinite(levels).all() else f"{LEVELS} are not finite"
