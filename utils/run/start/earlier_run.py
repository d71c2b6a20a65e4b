"""Another run as what a run begins with: its record and its newest checkpoint, whose tensors are known by their digest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from utils.errors import BadInput
from utils.files.text import counted
from utils.run.folder.checkpoint import Checkpoints
from utils.run.folder.record import read_record
from utils.run.folder.state import load_state
from utils.run.identity import Identity, check_checkpoint, content_digest
from utils.run.settings import TrainSettings


class EarlierRun(NamedTuple):
    """record: its run.json. loop: the state of its training loop in its newest checkpoint."""

    record: Mapping[str, Any]
    loop: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings by name, as recorded."""
        return self.record["settings"]


def refuse_itself(folder: Path, run: Path, flag: str) -> None:
    """Raises BadInput where the folder that a flag names is the run's own."""
    if folder.resolve() == run.resolve():
        raise BadInput(f"{flag}: {folder} is the folder of this run itself")


def iterations_of_finished(record: Mapping[str, Any]) -> int | None:
    """How many iterations a run that is done has had; None where it is not, or they were not recorded."""
    return record.get("iterations_done") if record["state"] == "done" else None


def require_final(folder: Path, iterations: int | None, state: Mapping[str, Any]) -> None:
    """Raises BadInput where a checkpoint is not of a finished run's end. iterations: as iterations_of_finished gives them."""
    there = state["loop"]["iteration"]
    if iterations not in (None, there):
        problem = f"{folder} is done after {counted(iterations, 'iteration')}, and its last whole checkpoint is of {there:,}"
        raise BadInput(f"{problem}: put its own checkpoint.pth back")


def read_earlier_run(folder: Path) -> EarlierRun:
    """Raises BadInput where there is no run, its checkpoint is damaged or not there, or is not of this run or of its end."""
    record = read_record(folder)
    state = load_state(Checkpoints(folder))
    if state is None:
        raise BadInput("it has no checkpoint yet")
    check_checkpoint(folder, state, Identity.of_record(record), "put back its own checkpoint or run.json")
    require_final(folder, iterations_of_finished(record), state)
    return EarlierRun(record, state["loop"])


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of their names, types, shapes and values, whatever their order in the file and in memory."""
    return content_digest((name, value.contiguous().numpy()) for name, value in sorted(tensors.items()))


def require_unchanged(contents: Mapping[str, str], name: str, digest: str, flag: str, folder: Path) -> None:
    """Raises BadInput where tensors are no longer those whose digest stands among the contents of the run that begins."""
    if contents.get(name, digest) != digest:
        raise BadInput(f"{flag}: {folder} has changed while it was read; is it still being trained?")


def has_seen(before: Mapping[str, Any] | None, settings: TrainSettings) -> str | None:
    """Why what was trained before may know the validation images; None where it does not, or there are none.

    before: the settings of that training, None: not known.
    """
    if not settings.validation:
        return None
    if before is None:
        return "may have been trained on the validation images"
    if [before.get(name) for name in ("validation", "seed")] != [settings.validation, settings.seed]:
        return f"was trained on validation images, not with --validation {settings.validation} --seed {settings.seed}"
    return None
