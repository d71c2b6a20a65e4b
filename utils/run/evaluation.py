"""What `evaluate` is given, a run's folder or a base-model file, as a net that is ready to be tested; and its result in words."""

import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from meta_utils.install import install_quantizer
from utils.batches import Loader
from utils.choices import is_net, npz_path
from utils.dataset import get_dataloader, load_images
from utils.errors import BadInput
from utils.files.look import look_at
from utils.quantize import Evaluation, Quantizer, get_quantizer
from utils.run.base_model import load_base_model
from utils.run.build import TEST_BATCH_SIZE
from utils.run.checkpoint import Checkpoints
from utils.run.identity import DATA, Identity, check_checkpoint, data_digest, program_contents
from utils.run.record import fault_of_result, read_record
from utils.run.state import load_state
from utils.run.weights import load_weights

SHOWN = 8  # values of a layer; BWN-F has two per filter


@dataclass(frozen=True)
class Trained:
    """Trained weights and what they are of. quantizer: None for full precision; made_of: of a run, by its record.

    keep: patterns of the layers in full precision.
    """

    path: Path
    model: str
    dataset: str
    quantizer: Quantizer | None = None
    made_of: Identity | None = None
    keep: tuple[str, ...] = ()

    def load_test_data(self, data_root: str) -> Loader:
        """The loader of the test images. Raises BadInput where the data are not there, or not those of the run."""
        path = npz_path(self.dataset)
        if self.made_of and path and not path.is_file():
            raise BadInput(f"{self.path} was trained on {path}, which is not there; -d NPZ:PATH says where it is now")
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

    def load_into(self, net: nn.Module) -> None:
        """Loads the weights strictly, and those of a quantizer with parameters, which is installed in the net.

        Raises BadInput where they are damaged, not there, or of another net or run.
        """
        if not self.path.is_dir():
            load_base_model(self.path, net, f"-m {self.model} -d {self.dataset}")
            return
        state = load_state(Checkpoints(self.path))
        if state is None:
            raise BadInput(f"{self.path} has no checkpoint yet")
        check_checkpoint(self.path, state, self.made_of, "put back its own checkpoint or run.json")
        try:
            install_quantizer(net, self.quantizer)
            load_weights(net, state["loop"]["net"])
        except ValueError as error:
            origin = f"{self.path} has a checkpoint that is not of {self.model} for {self.dataset}"
            raise BadInput(f"{origin}: {error}") from None


def find_trained(path: Path, model: str | None, dataset: str | None) -> Trained:
    """A run's folder, which says what it is of, or a base-model file of the given model and data set.

    dataset: of a run's folder, where its data are now. Raises BadInput for what is neither, and for another data set than the
    run's.
    """
    found = look_at(path)
    if found and stat.S_ISDIR(found.st_mode):
        return _of_run(path, dataset)
    if not found:
        raise BadInput(f"{path}: there is no such folder or file")
    if not (model and dataset):
        raise BadInput(f"{path}: a base-model file needs -m/--model and -d/--dataset")
    return Trained(path, model, dataset)


def _of_run(path: Path, given: str | None) -> Trained:
    record = read_record(path)
    settings = record["settings"]
    model, dataset, quantizer = (settings.get(name) for name in ("model", "dataset", "quantizer"))
    if not (is_net(model) and dataset):
        raise BadInput(f"{path / 'run.json'} is not a run's record: model {model}, data set {dataset}")
    if given not in (None, dataset) and not (npz_path(given) and npz_path(dataset)):
        raise BadInput(f"-d/--dataset {given}: {path} was trained on {dataset}")
    try:
        quantizer = get_quantizer(quantizer, settings.get("bits"))
        keep = tuple(settings.get("keep") or ())
        return Trained(path, model, given or dataset, quantizer, Identity.of_record(record), keep)
    except ValueError as error:
        raise BadInput(f"{path / 'run.json'}: {error}") from None


def describe_evaluation(result: Evaluation, net: nn.Module, quantizer: Quantizer | None) -> str:
    """Accuracies, then a line per quantized layer with its distinct weight values (up to 8 of them).

    Raises BadInput for a result that is not finite: the weights are of no use.
    """
    if fault := fault_of_result(result._asdict()):
        raise BadInput(f"{fault}: the net cannot compute with these weights")
    lines = [f"top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}"]
    for layer, W_hat in zip(net.meta.layers, net.meta.quantized(quantizer), strict=True) if quantizer else ():
        values = W_hat.unique()
        shown = ", ".join(f"{value:.4g}" for value in values[:SHOWN].tolist()) + (", ..." if len(values) > SHOWN else "")
        lines.append(f"{layer.name:24} {W_hat.numel():>8} weights, {len(values)} values: {shown}")
    return "\n".join(lines)
