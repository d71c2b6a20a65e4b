"""Another run as what a run begins with: its record, and tensors of its newest checkpoint, known by their digest."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.errors import BadInput
from utils.run.folder.record import read_record
from utils.run.folder.state import final_state, iterations_of_finished
from utils.run.identity import DATA, Identity, content_digest
from utils.run.settings import TrainSettings


class EarlierRun(NamedTuple):
    """record: its run.json. tensors: what another run takes from its newest checkpoint, by name."""

    record: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings by name, as recorded."""
        return self.record["settings"]

    @property
    def digest(self) -> str:
        """Of the tensors' names, types, shapes and values, whatever their order in the file and in memory."""
        return content_digest((name, _array(value)) for name, value in sorted(self.tensors.items()))


def _array(tensor: Tensor) -> np.ndarray:
    """NumPy has no bfloat16: of such a tensor, its bits."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()


def refuse_itself(folder: Path, run: Path, flag: str) -> None:
    """Raises BadInput where the folder that a flag names is the run's own."""
    if folder.resolve() == run.resolve():
        raise BadInput(f"{flag}: {folder} is the folder of this run itself")


def read_earlier_run(folder: Path, part: str) -> EarlierRun:
    """A run's record and one part of its newest checkpoint: "net", or "meta_net", which is empty where the run has no M.

    Raises BadInput where there is no run, its checkpoint is damaged or not there, or is not of this run or of its end.
    """
    record = read_record(folder)
    state = final_state(folder, Identity.of_record(record), iterations_of_finished(record))
    if state is None:
        raise BadInput("it has no checkpoint yet")
    return EarlierRun(record, state["loop"][part])


def has_seen(before: Mapping[str, Any] | None, settings: TrainSettings) -> str | None:
    """Why what was trained before may know the validation images; None where it does not, or there are none.

    before: the settings of that training, None: not known.
    """
    if not settings.validation:
        return None
    if before is None:
        return "may have been trained on the validation images"
    if [before.get(name) for name in ("validation", "seed")] != [settings.validation, settings.seed]:
        return f"was not trained with --validation {settings.validation} --seed {settings.seed} and has seen validation images"
    return None


def is_of_other_data(training: Mapping[str, Any], settings: TrainSettings, contents: Mapping[str, str]) -> bool:
    """Whether a run, by its record, was trained on other data than this one, as far as that is known.

    training: empty where it is not known. contents: of this run, as in Identity.
    """
    dataset, digest = training.get("settings", {}).get("dataset"), training.get(DATA)
    return digest != contents[DATA] if digest and contents.get(DATA) else dataset not in (None, settings.dataset)
