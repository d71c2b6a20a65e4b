"""What `evaluate` is given, a run's folder or a base-model file, as a net that is ready to be tested; and its result in words."""

import stat
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from utils.choices import MODELS
from utils.errors import BadInput
from utils.looking import look_at
from utils.quantize import Evaluation, Quantizer, get_quantizer
from utils.run.base_model import load_base_model
from utils.run.checkpoint import Checkpoints
from utils.run.record import read_record
from utils.run.state import load_state
from utils.run.weights import load_weights

SHOWN = 8  # values of a layer; BWN-F has two per filter


@dataclass(frozen=True)
class Trained:
    """Trained weights and what they are of. quantizer: None for full precision."""

    path: Path
    model: str
    dataset: str
    quantizer: Quantizer | None = None

    def load_into(self, net: nn.Module) -> None:
        """Loads the weights strictly. Raises BadInput where they are damaged, not there, or of another net."""
        if self.path.is_dir():
            try:
                load_weights(net, self._checkpoint())
            except ValueError as error:
                origin = f"{self.path} has a checkpoint that is not of {self.model} for {self.dataset}"
                raise BadInput(f"{origin}: {error}") from None
        else:
            load_base_model(self.path, net, f"-m {self.model} -d {self.dataset}")

    def _checkpoint(self) -> dict[str, Tensor]:
        state = load_state(Checkpoints(self.path))
        if state is None:
            raise BadInput(f"{self.path} has no checkpoint yet")
        return state["loop"]["net"]


def find_trained(path: Path, model: str | None, dataset: str | None) -> Trained:
    """A run's folder, which says what it is of, or a base-model file of the given model and data set.

    Raises BadInput for what is neither.
    """
    found = look_at(path)
    if found and stat.S_ISDIR(found.st_mode):
        return _of_run(path)
    if not found:
        raise BadInput(f"{path}: there is no such folder or file")
    if not (model and dataset):
        raise BadInput(f"{path}: a base-model file needs -m/--model and -d/--dataset")
    return Trained(path, model, dataset)


def _of_run(path: Path) -> Trained:
    settings = read_record(path)["settings"]
    model, dataset, quantizer = (settings.get(name) for name in ("model", "dataset", "quantizer"))
    if not (model in MODELS and dataset):
        raise BadInput(f"{path / 'run.json'} is not a run's record: model {model}, data set {dataset}")
    try:
        return Trained(path, model, dataset, get_quantizer(quantizer, settings.get("bits", 1)))
    except ValueError as error:
        raise BadInput(f"{path / 'run.json'}: {error}") from None


def describe_evaluation(result: Evaluation, net: nn.Module, quantizer: Quantizer | None) -> str:
    """Accuracies, then a line per quantized layer with its distinct weight values (up to 8 of them)."""
    lines = [f"top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  loss {result.loss:.4f}"]
    for layer in net.meta_layers() if quantizer else ():
        W = layer.weight.detach()
        values = quantizer.quantize(quantizer.preprocess(W), W).unique()
        shown = ", ".join(f"{value:.4g}" for value in values[:SHOWN].tolist()) + (", ..." if len(values) > SHOWN else "")
        lines.append(f"{layer.name:24} {W.numel():>8} weights, {len(values)} values: {shown}")
    return "\n".join(lines)
