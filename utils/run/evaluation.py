"""What `evaluate` is given, a run's folder, an exported or a base-model file, as a net that is ready to be tested; and the result
in words.
"""

import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from meta_utils.install import NAME as INSTALLED
from meta_utils.install import install_quantizer
from meta_utils.meta_layers import MetaLayer
from utils.batches import Loader
from utils.choices import FLOAT32, PRECISIONS, is_net, npz_path
from utils.dataset import get_dataloader, load_images
from utils.errors import BadInput, shortened
from utils.files.look import is_file, look_at
from utils.files.text import counted
from utils.quantize import Evaluation, get_quantizer
from utils.quantizers.quantizer import Quantizer
from utils.run.build import TEST_BATCH_SIZE, build_net
from utils.run.exported.packed import MOST_BITS, pack
from utils.run.exported.read import ExportedFile, build_exported, read_exported
from utils.run.folder.record import fault_of_result, read_record
from utils.run.folder.state import final_state, iterations_of_finished
from utils.run.folder.weights import load_weights
from utils.run.identity import DATA, Identity, data_digest, program_contents
from utils.run.paths import EXPORTED, ONNX, RECORD
from utils.run.start.base_model import load_base_model

SHOWN = 8  # values of a layer


class Progress(NamedTuple):
    """How many epochs and iterations a checkpoint has had."""

    epochs: int
    iterations: int


@dataclass(frozen=True)
class Trained:
    """Trained weights and what they are of.

    quantizer: None where the net computes with its weights as they are: of a base model, and of an exported file, whose weights
    are W_hat. made_of: of a run, or of an exported file's. keep: patterns of the layers in full precision. file: an exported one.
    precision: of the products: of a run its own, unless another one is asked for. iterations: of a finished run, if known.
    """

    path: Path
    model: str
    dataset: str
    quantizer: Quantizer | None = None
    made_of: Identity | None = None
    keep: tuple[str, ...] = ()
    file: ExportedFile | None = None
    precision: str = FLOAT32
    iterations: int | None = None

    def load_test_data(self, data_root: str) -> Loader:
        """The loader of the test images. Raises BadInput where the data are not there, or not those of the run."""
        path = npz_path(self.dataset)
        if self.made_of and path and not is_file(path, f"-d {self.dataset}"):
            raise BadInput(f"{self.path} was trained on {path}, which is not there; give its new place with -d NPZ:PATH")
        loader = get_dataloader(self.dataset, "test", TEST_BATCH_SIZE, data_root=data_root)
        if self.made_of and DATA in self.made_of.contents:
            digest = data_digest(load_images(self.dataset, "train", data_root), loader.image_set)
            if other := self.made_of.differing_contents(Identity({"dataset": self.dataset}, {DATA: digest})):
                raise BadInput(f"{self.path} {other}")
        return loader

    def compare_program(self, program: Path) -> None:
        """Says where a run was made by another version of this program, or by another one: its classes may be others."""
        if self.made_of and (other := self.made_of.differing_contents(Identity({}, program_contents(program)))):
            print(f"note: {self.path} {other}", file=sys.stderr)

    def build(self, loader: Loader, device: torch.device) -> nn.Module:
        """The net for the loader's images, with the trained weights, on the device.

        Raises BadInput where these are damaged, not there, or of another net or run.
        """
        if self.file:
            return build_exported(self.file, self.path, loader, device, self.precision)
        net = build_net(self.model, loader, device, keep=self.keep, precision=self.precision)
        self.load_into(net)
        return net

    @torch.no_grad()
    def quantized_weights(self, net: nn.Module) -> dict[MetaLayer, Tensor]:
        """W_hat of each quantized layer of the net that `build` gave, in the weight's shape; {} in full precision."""
        if self.quantizer:
            return dict(zip(net.meta.layers, net.meta.quantized(self.quantizer), strict=True))
        return {layer: layer.weight.detach() for layer in net.meta.layers} if self.file else {}

    def load_into(self, net: nn.Module) -> Progress | None:
        """Loads the weights strictly, and those of a quantizer with parameters, which is installed in the net.

        Returns how far their run had come; None for a base-model file. Raises BadInput where they are damaged, not there, or of
        another net or run.
        """
        if not self.path.is_dir():
            load_base_model(self.path, net, f"-m {self.model} -d {self.dataset}")
            return None
        state = final_state(self.path, self.made_of, self.iterations)
        if state is None:
            raise BadInput(f"{self.path} has no checkpoint yet")
        try:
            install_quantizer(net, self.quantizer)
            load_weights(net, state["loop"]["net"])
        except ValueError as error:
            origin = f"{self.path} has a checkpoint that is not of {self.model} for {self.dataset}"
            raise BadInput(f"{origin}: {error}") from None
        return Progress(len(state["recorder"]["test_acc"]), state["loop"]["iteration"])


def find_trained(path: Path, model: str | None, dataset: str | None, precision: str | None = None) -> Trained:
    """A run's folder or an exported file, which say what they are of, or a base-model file of the given model and data set.

    dataset: of a run or an exported file, where its data are now. precision: None: a run's own, float32 for a file; an ONNX
    file computes in float32 whatever is given. Raises BadInput for what is none of them, for a file that is damaged, and for
    another data set than the run's.
    """
    found = look_at(path)
    if found and stat.S_ISDIR(found.st_mode):
        return find_run(path, dataset, precision)
    if not found:
        raise BadInput(f"{path}: there is no such folder or file")
    if path.suffix in EXPORTED:
        file = read_exported(path)
        about = file.about
        where = _where_the_data_are(path, about.dataset, dataset)
        precision = FLOAT32 if path.suffix == ONNX else precision or FLOAT32
        return Trained(path, about.architecture, where, None, about.identity, tuple(about.keep), file, precision)
    if not (model and dataset):
        raise BadInput(f"{path}: a base-model file needs -m/--model and -d/--dataset")
    return Trained(path, model, dataset, precision=precision or FLOAT32)


def find_run(path: Path, given: str | None, precision: str | None) -> Trained:
    """A run's folder; given: where its data are now. precision: None: its own. Raises BadInput as `find_trained` does."""
    record = read_record(path)
    settings = record["settings"]
    model, dataset, quantizer = (settings.get(name) for name in ("model", "dataset", "quantizer"))
    if not (model and dataset):
        raise BadInput(f"{path / RECORD} is not a run's record: model {model}, data set {dataset}")
    if not is_net(model):
        raise BadInput(f"{path} is of a net that this program does not know, {model}: use the program that trained it")
    where = _where_the_data_are(path, dataset, given)
    try:
        quantizer = get_quantizer(quantizer, settings.get("bits"))
        keep = tuple(settings.get("keep") or ())
        precision = precision or settings["precision"]
        if precision not in PRECISIONS:
            raise ValueError(f"there is no precision {shortened(str(precision))}")
        made_of, iterations = Identity.of_record(record), iterations_of_finished(record)
        return Trained(path, model, where, quantizer, made_of, keep, precision=precision, iterations=iterations)
    except ValueError as error:
        raise BadInput(f"{path / RECORD}: {error}") from None


def _where_the_data_are(path: Path, recorded: str, given: str | None) -> str:
    if given not in (None, recorded) and not (npz_path(given) and npz_path(recorded)):
        raise BadInput(f"-d/--dataset {given}: {path} was trained on {recorded}")
    return given or recorded


def describe_evaluation(result: Evaluation, net: nn.Module, quantized: dict[MetaLayer, Tensor]) -> str:
    """Accuracies, a line per quantized layer with what the forward computes with, and a line on all that is in full precision.

    quantized: as `quantized_weights` gives it. Raises BadInput for a result that is not finite: the weights are of no use.
    """
    if fault := fault_of_result(result._asdict()):
        raise BadInput(f"{fault}: the net cannot compute with these weights")
    lines = [f"top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}"]
    lines += [_describe_layer(layer, W_hat) for layer, W_hat in quantized.items()]
    return "\n".join([*lines, _describe_others(net, quantized)])


def _describe_layer(layer: MetaLayer, W_hat: Tensor) -> str:
    """Name, shape, distinct values (up to 8 are shown), bits per weight, and the largest |value|: the scale of two."""
    values = W_hat.unique() + 0  # no -0
    shown = f": {', '.join(f'{value:.4g}' for value in values[:SHOWN].tolist())}" + (", ..." if len(values) > SHOWN else "")
    bits, scales = f"more than {MOST_BITS} bits", W_hat.abs().amax().reshape(1)
    with suppress(ValueError):
        packed = pack(W_hat.cpu().numpy(), layer.filters)
        bits, scales = counted(packed.bits, "bit"), packed.scales
        if len(scales) > 1:
            shown = f", up to {packed.levels.shape[-1]} per output channel"
    word = "scale" if len(values) <= 2 * len(scales) else "max |W^|"
    scale = f"{word} {scales.min():.4g}" + (f" to {scales.max():.4g}" if len(scales) > 1 else "")
    shape = "x".join(map(str, W_hat.shape))
    return f"{layer.name:24} {shape:>14} {W_hat.numel():>8} weights, {counted(len(values), 'value')}{shown}; {bits}, {scale}"


def _describe_others(net: nn.Module, quantized: dict[MetaLayer, Tensor]) -> str:
    """The net's parameters that are not quantized: those with more than one axis by name, such as kept layers' weights."""
    taken = {name for layer in quantized for name in layer.uses}
    if net.meta.quantizer is not None:
        taken |= {f"{INSTALLED}.{name}" for name, _ in net.meta.quantizer.named_parameters()}
    others = {name: p for name, p in net.named_parameters() if name not in taken}
    weights = {name.removesuffix(".weight"): p.numel() for name, p in others.items() if p.dim() > 1}
    rest = f"everything else, {sum(p.numel() for p in others.values() if p.dim() <= 1)} parameters"
    listed = ", ".join([*list(weights)[:SHOWN], *(["..."] if len(weights) > SHOWN else [])])
    names = [f"{listed}, {sum(weights.values())} weights"] if weights else []
    return f"{'full precision':24} {'; '.join([*names, rest])}"
