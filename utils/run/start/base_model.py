"""Files of base models, which `pretrain` writes and `train` begins with."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import BadInput, Finished, RunFailed
from utils.files.look import look_at
from utils.files.regular import require_regular, unfinished
from utils.run.folder.checkpoint import load_tensors, save_tensors
from utils.run.folder.finite import fault_of_weights
from utils.run.folder.record import check_record, read_record
from utils.run.folder.state import final_state, iterations_of_finished
from utils.run.folder.weights import checked_weights, state_dict_in, without_prefixes
from utils.run.identity import NOTHING, Identity, file_digest
from utils.run.paths import EXPORTED, RECORD
from utils.run.settings import PretrainSettings


def check_base_model(target: Path, path: Path, settings: PretrainSettings) -> None:
    """Checks the run that makes `target`, as check_record does. If it is done and `target` is missing, writes `target` again.

    Raises BadInput where `target` exists and is another run's.
    """
    is_there = look_at(target, "--results-root") is not None
    if is_there and look_at(path, "--results-root") is None:
        raise BadInput(f"{target} exists already: --overwrite replaces it, another --results-root keeps it")
    try:
        record = check_record(path, settings) or {}
    except Finished:
        if not is_there:
            record = read_record(path)
            state = final_state(path, Identity.of_record(record), iterations_of_finished(record), "--overwrite starts over")
            if state is None:
                raise BadInput(f"{path} is done, but its checkpoint and {target} are gone; --overwrite starts over") from None
            write_base_model(state["loop"]["net"], target)
        raise
    ended = record.get("epochs_done") == settings.epochs or record.get("ended_early")  # its own may be there already
    if not ended and not _may_replace(target, record):
        raise _in_the_way(target)


def refuse_links(target: Path) -> None:
    """Raises BadInput where something else than a file lies where the target, or what it is made from, will be written."""
    try:
        for path in (target, unfinished(target), _previous(target)):
            require_regular(path)
    except OSError as error:
        raise BadInput(f"--results-root: the base model cannot be written: {error}") from None


def _previous(target: Path) -> Path:
    return target.with_name(f"{target.stem}-previous.pth")


def write_base_model(state: dict[str, Tensor], target: Path, record: Mapping[str, Any] = NOTHING) -> None:
    """The file that `train` starts from. One that is there is replaced, and kept beside it, if the run's record allows it.

    record: its "replaces" is the digest of the base model that --overwrite was given for. Raises BadInput where another one is
    there by now, RunFailed where the file cannot be written, or where no net could compute with the weights.
    """
    weights = {name: value.cpu().contiguous() for name, value in state.items()}
    if fault := fault_of_weights(weights):
        raise RunFailed(f"{target} is not written: {fault}")
    if not _may_replace(target, record):
        if not _holds(target, weights):
            raise _in_the_way(target)
        print(f"{target} holds these weights already")
        return
    try:
        save_tensors(weights, target, previous=_previous(target))
    except OSError as error:
        raise RunFailed(f"{target} cannot be written: {error}") from None
    print(f"wrote {target}")


def _may_replace(target: Path, record: Mapping[str, Any]) -> bool:
    return not target.exists() or file_digest(target) == record.get("replaces")


def _in_the_way(target: Path) -> BadInput:
    return BadInput(f"{target} exists already, and another run made it: move it away to go on here, or --overwrite starts over")


def _holds(target: Path, weights: Mapping[str, Tensor]) -> bool:
    try:
        there = load_tensors(target, "base model")
    except BadInput:
        return False
    return isinstance(there, dict) and there.keys() == weights.keys() and all(torch.equal(there[n], weights[n]) for n in weights)


def pretraining_of(base_model: Path) -> Mapping[str, Any]:
    """The record of the `pretrain` in the same folder that wrote a base model; empty where it is not known.

    Records of earlier commits do not say what was written: of them, the last that has ended is taken.
    """
    records = []
    for file in base_model.parent.glob(f"pretrain-trial-*/{RECORD}"):
        with suppress(BadInput):
            records.append(read_record(file.parent))
    digest = file_digest(base_model)
    of_it = [record for record in records if record["state"] == "done" and record.get("wrote", digest) == digest]
    return max(of_it, key=lambda record: ("wrote" in record, record.get("ended", "")), default={})


def load_base_model(path: str | Path, net: nn.Module, origin: str) -> None:
    """Loads a state dict into the net strictly; `origin` names flag and net in the error.

    The file may hold it as one of the WRAPPERS, with one of the PREFIXES before every name, and without batch counters.
    Raises BadInput for a file that is absent, unreadable, an exported one, no state dict, of another net, or with values that no
    net can compute with: NaN, an infinity, a negative running_var.
    """
    if Path(path).suffix in EXPORTED:
        raise BadInput(f"{origin}: {path} is no base model: an exported net has W^, not W; take the run's folder")
    content = load_tensors(path, origin)
    try:
        weights = without_prefixes(state_dict_in(content), net.state_dict())
    except ValueError as error:
        raise BadInput(f"{origin}: {path} {error}") from None
    try:
        weights = checked_weights(net, weights, lacks_counters=True)
    except ValueError as error:
        raise BadInput(f"{origin}: {path} is not a base model of this net: {error}") from None
    own = net.state_dict()
    if fault := fault_of_weights({name: value.to(own[name].dtype) for name, value in weights.items()}):
        raise BadInput(f"{origin}: {path} cannot be used: {fault}")
    net.load_state_dict(weights)
