"""What a run's checkpoint holds; a checkpoint of another form, from an older version or by another hand, is refused by name."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from meta_utils.layer_statistics import LEVELS
from meta_utils.training import TrainingLoop
from utils import LAYERS_LOG, LOGS, VALIDATION_LOG
from utils.environment import restore_random_states
from utils.errors import BadInput, first_line, shortened
from utils.files.checks import ANYTHING, NUMBER, SWITCH, WHOLE, Check, each, list_of
from utils.files.text import counted
from utils.run.folder.checkpoint import Checkpoints
from utils.run.folder.weights import differences
from utils.run.identity import CONTENTS, Identity, check_checkpoint


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(NUMBER.holds, value))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"


OF_OPTIMIZER = ["state", "param_groups"]
NUMBERS = Check("a list of numbers", list_of(NUMBER).holds)
TENSORS = Check("tensors by name", each(Check("a tensor", _is_tensor)).holds)
BYTES = Check("a tensor of bytes", lambda value: _is_tensor(value) and value.dtype == torch.uint8)
TUPLE = Check("a tuple", lambda value: isinstance(value, tuple))
OPTIMIZER = Check("an optimizer's state", lambda value: isinstance(value, dict) and [*value] in ([], OF_OPTIMIZER))
DIGEST = Check("a digest or nothing", lambda value: value is None or isinstance(value, str), may_lack=True)
DIGESTS = Check("digests by name", each(DIGEST).holds, may_lack=True)
FORMER = ANYTHING._replace(may_lack=True)  # what is no longer read

# A new entry needs may_lack where checkpoints without it can still be resumed.
FORM = {
    "settings": Check("settings by name", each(ANYTHING).holds),
    **dict.fromkeys(CONTENTS, DIGEST),
    "loop": {
        "iteration": WHOLE,
        "net": TENSORS,
        "gradients": TENSORS,
        "layers": TENSORS,
        "optimizee": OPTIMIZER,
        "meta_net": TENSORS,
        "meta_optimizer": OPTIMIZER,
        "meta_hidden_state_dict": TENSORS,
    },
    "recorder": {
        "iteration": WHOLE,
        "test_acc": NUMBERS,
        "epoch_losses": NUMBERS,
        "seconds_per_epoch": NUMBERS,
        "stop": SWITCH,
        "_drops": WHOLE,
        "_epochs_without_progress": WHOLE,
        "_lowest_loss": NUMBER,
        "meters": Check("two pairs of numbers", lambda value: isinstance(value, list) and [*map(_is_pair, value)] == [True] * 2),
        "elapsed": NUMBER,
        "val_acc": NUMBERS._replace(may_lack=True),  # with validation images alone
        "log_sizes": dict.fromkeys(LOGS, WHOLE) | dict.fromkeys((VALIDATION_LOG, LAYERS_LOG), WHOLE._replace(may_lack=True)),
        "log_hashes": DIGESTS,
        "levels": TENSORS._replace(may_lack=True),
        "epoch": FORMER,
        "batches": FORMER,
    },
    "random": {
        "python": TUPLE,
        "numpy": TUPLE,
        "torch": BYTES,
        "cuda": Check("a tensor of bytes or nothing", lambda value: value is None or BYTES.holds(value)),
    },
    "result": Check("numbers by name", each(NUMBER).holds),
}


def load_state(checkpoints: Checkpoints) -> dict[str, Any] | None:
    """As Checkpoints.load; raises BadInput, too, where the checkpoint has another form than this version's."""
    state = checkpoints.load()
    if state is not None and (problem := find_problem(state)):
        raise BadInput(f"{checkpoints.newest.parent} has a checkpoint of another version: {problem}")
    return state


def find_problem(state: Any) -> str | None:
    """What is missing, unknown or of another kind in a checkpoint's content, in words."""
    if problem := _compare(state, FORM, ""):
        return problem
    loop, recorder = state["loop"], state["recorder"]
    if recorder["iteration"] != loop["iteration"]:
        return f"recorder.iteration is {recorder['iteration']}, and loop.iteration {loop['iteration']}"
    epochs = len(recorder["test_acc"])
    if not epochs == len(recorder["epoch_losses"]) == len(recorder["seconds_per_epoch"]):
        return "recorder.test_acc, epoch_losses and seconds_per_epoch are not of one length"
    validated = recorder.get("val_acc") is not None
    if validated != (VALIDATION_LOG in recorder["log_sizes"]) or len(recorder.get("val_acc", recorder["test_acc"])) != epochs:
        return f"recorder.val_acc and log_sizes.{VALIDATION_LOG} do not fit each other, or test_acc"
    return None


def _compare(value: Any, form: Check | Mapping[str, Any], place: str) -> str | None:
    """place: of the value, with a dot after each name."""
    if isinstance(form, Check):
        return None if form.holds(value) else f"{place.rstrip('.')} is not {form.accepts}"
    if not isinstance(value, dict):
        return f"{place.rstrip('.') or 'it'} does not hold {', '.join(form)}"
    needed = (name for name, entry in form.items() if not (isinstance(entry, Check) and entry.may_lack))
    if missing := [name for name in needed if name not in value]:
        return f"it lacks {place}{missing[0]}"
    if unknown := [name for name in value if name not in form]:
        return f"{place}{shortened(str(unknown[0]))} is unknown"
    return next(filter(None, (_compare(entry, form[name], f"{place}{name}.") for name, entry in value.items())), None)


def restore(loop: TrainingLoop, state: dict[str, Any], where: str) -> None:
    """Brings a loop and the random generators to a checkpoint's state; `where` begins the error.

    Raises BadInput where the state is another net's, quantizer's, M's or optimizer's.
    """
    try:
        if problem := _difference(loop, state["loop"] | {"levels": state["recorder"].get("levels", {})}):
            raise ValueError(problem)
        loop.load_state_dict(state["loop"])
        restore_random_states(state["random"])
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"{where} has a checkpoint that is not of this run: {shortened(first_line(error))}") from None


def _difference(loop: TrainingLoop, state: dict[str, Any]) -> str | None:
    """Why a loop's state, and the levels of its weights, cannot be this loop's; None where they can."""
    W = loop.net.meta.weights().detach().to("meta")  # all coordinates (N,)
    parts = {
        "net": loop.net.state_dict(),
        "gradients": {name: p for name, p in loop.net.named_parameters() if name in state["gradients"]},
        "layers": {"g_W_hat": W, "W_tilde": W} if state["layers"] else {},
        "levels": {name: W.to(torch.uint8) for name in LEVELS if name in state["levels"]},
        "meta_net": loop.meta_net.state_dict() if loop.learned else {},
    }
    shapes = loop.meta_net.state_shapes(len(W)) if loop.learned else {}
    if shapes is not None:
        hidden = shapes.items() if state["meta_hidden_state_dict"] else ()
        parts["meta_hidden_state_dict"] = {name: W.new_empty(shape) for name, shape in hidden}
    for part, own in parts.items():
        if why := differences(state[part], own):
            return f"{part}: {why}"
        if wrong := [name for name, value in state[part].items() if value.dtype != own[name].dtype]:
            return f"{part}: {wrong[0]} is {state[part][wrong[0]].dtype}, not {own[wrong[0]].dtype}"
    optimizers = {"optimizee": loop.optimizee, "meta_optimizer": loop.meta_optimizer}
    return next(filter(None, (_of_optimizer(part, own, state[part]) for part, own in optimizers.items())), None)


def _of_optimizer(part: str, optimizer: Optimizer | None, state: dict[str, Any]) -> str | None:
    """Why a state cannot be the optimizer's: compared with what it holds after a step."""
    if optimizer is None or not state:
        return None if optimizer is None and not state else f"{part} should {'not be there' if state else 'be there'}"
    own = _after_a_step(optimizer)
    groups = state["param_groups"]
    if not isinstance(groups, list) or len(groups) != len(own["param_groups"]):
        return f"{part} has other parameter groups"
    for group, mine in zip(groups, own["param_groups"], strict=True):
        changes = {"initial_lr": mine["lr"]}  # where the schedule has begun
        if not isinstance(group, dict) or not mine.keys() <= group.keys() <= mine.keys() | changes.keys():
            return f"{part} has a parameter group with other names than {', '.join(mine)}"
        if wrong := [name for name, value in group.items() if not _alike(value, (mine | changes)[name])]:
            return f"{part} has a parameter group with another kind of {wrong[0]}"
    parameters = {number for group in own["param_groups"] for number in group["params"]}
    if not isinstance(state["state"], dict) or not state["state"].keys() <= parameters:
        return f"{part} has a state of other parameters"
    for index, entry in state["state"].items():
        mine = own["state"].get(index, {})
        if not isinstance(entry, dict) or (entry and not mine.keys() <= entry.keys()):
            return f"{part} has for parameter {index} other values than {', '.join(mine)}"
        if wrong := [name for name, value in mine.items() if entry and not _alike(entry[name], value)]:
            return f"{part} has for parameter {index} another kind of {wrong[0]}"
    return None


def _after_a_step(optimizer: Optimizer) -> dict[str, Any]:
    """The state that a copy of the optimizer has after a step with zero gradients."""
    copy = deepcopy(optimizer)
    for group in copy.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    copy.step()
    return copy.state_dict()


def _alike(value: Any, own: Any) -> bool:
    """Whether a value is of the kind of the optimizer's own: a tensor of its shape, a number, or of its type."""
    if isinstance(own, Tensor):
        counts = not own.dim() and NUMBER.holds(value)
        return counts or (isinstance(value, Tensor) and value.shape == own.shape and value.dtype.is_floating_point)
    if NUMBER.holds(own):
        return NUMBER.holds(value)
    if isinstance(own, (list, tuple)):
        return isinstance(value, (list, tuple)) and len(value) == len(own) and all(map(_alike, value, own))
    return type(value) is type(own)


def iterations_of_finished(record: Mapping[str, Any]) -> int | None:
    """How many iterations a run that is done has had; None where it is not, or they were not recorded."""
    return record.get("iterations_done") if record["state"] == "done" else None


def _require_final(folder: Path, iterations: int | None, state: Mapping[str, Any]) -> None:
    """Raises BadInput where a checkpoint is not of a finished run's end. iterations: as iterations_of_finished gives them."""
    there = state["loop"]["iteration"]
    if iterations not in (None, there):
        problem = f"{folder} is done after {counted(iterations, 'iteration')}, and its last whole checkpoint is of {there:,}"
        raise BadInput(f"{problem}: put its own checkpoint.pth back")


def final_state(
    folder: Path, own: Identity, iterations: int | None, advice: str = "put back its own checkpoint or run.json"
) -> dict[str, Any] | None:
    """The newest whole checkpoint of a run's folder; None where there is none.

    own: the run's identity. iterations: as iterations_of_finished gives them. Raises BadInput where the checkpoint is damaged, of
    another run, or not of a finished run's end.
    """
    state = load_state(Checkpoints(folder))
    if state is not None:
        check_checkpoint(folder, state, own, advice)
        _require_final(folder, iterations, state)
    return state
