"""The files of base models: what `pretrain` writes and `train` begins with."""

import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import BadInput, Finished, RunFailed
from utils.run.checkpoint import Checkpoints, load_tensors, save_tensors
from utils.run.paths import missing_base_model
from utils.run.record import check_record, read_record
from utils.run.settings import PretrainSettings, TrainSettings
from utils.text import printable


def check_base_model(target: Path, path: Path, settings: PretrainSettings) -> None:
    """As check_record, of the run that made the target or is to; writes a target that is gone again from a finished run."""
    if target.exists() and not path.exists():
        raise BadInput(f"{target} exists already: --overwrite makes it anew, another --results-root leaves it")
    try:
        check_record(path, settings)
    except Finished:
        if not target.exists():
            state = Checkpoints(path).load()
            if state is None:
                raise BadInput(f"{path} is done, but its checkpoint and {target} are gone; --overwrite starts over") from None
            write_base_model(state["loop"]["net"], target)
        raise


def write_base_model(state: dict[str, Tensor], target: Path) -> None:
    """The file that `train` starts from; an older one is kept beside it. Raises RunFailed where it cannot be written."""
    weights = {name: value.cpu().contiguous() for name, value in state.items()}
    try:
        save_tensors(weights, target, previous=target.with_name(f"{target.stem}-previous.pth"))
    except OSError as error:
        raise RunFailed(f"{target} cannot be written: {error}") from None
    print(f"wrote {target}")


def check_start(settings: TrainSettings) -> None:
    """Raises BadInput where the base model that --pretrained names is not there."""
    if missing := missing_base_model(settings.pretrained, settings.model, settings.dataset):
        raise BadInput(f"--pretrained: {missing}, name another, or none for scratch")


def load_start(net: nn.Module, settings: TrainSettings) -> None:
    """Loads the base model that --pretrained names; "none" keeps the random start."""
    path, model, dataset = settings.pretrained, settings.model, settings.dataset
    if path == "none":
        return
    load_base_model(path, net, f"--pretrained (-m {model} -d {dataset})")
    made_from = _trained_on(Path(path).parent)
    if made_from not in (None, dataset):  # two sets of one name share the folder
        print(f"note: --pretrained {path} was trained on {printable(made_from)}, not on {dataset}", file=sys.stderr)


def _trained_on(folder: Path) -> str | None:
    """The data set of the last finished `pretrain` in a folder; None where none is known."""
    records = []
    for file in folder.glob("pretrain-trial-*/run.json"):
        with suppress(BadInput):
            records.append(read_record(file.parent))
    last = max((record for record in records if record["state"] == "done"), key=lambda r: r.get("ended", ""), default={})
    return last.get("settings", {}).get("dataset")


def load_base_model(path: str | Path, net: nn.Module, origin: str) -> None:
    """Loads a state dict into the net strictly; `origin` names flag and net in the error.

    Raises BadInput for a file that is absent, unreadable, not a plain state dict, or of another net.
    """
    weights = load_tensors(path, origin)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BadInput(f"{origin}: {path} is not a plain state dict (name -> tensor)")
    own = net.state_dict()
    wrong = [
        *(f"{name} is missing" for name in own if name not in weights),
        *(f"{name} is unexpected" for name in weights if name not in own),
        *(
            f"{name} has shape {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        ),
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BadInput(f"{origin}: {path} is not a base model of this net: {wrong[0]}{more}")
    net.load_state_dict(weights)
