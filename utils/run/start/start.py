"""What `train` begins with: the weights that --pretrained names and the phi that --phi names."""

import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from meta_utils.install import NAME as INSTALLED
from utils.choices import QUANTIZERS, is_trained
from utils.errors import BadInput
from utils.files.look import is_folder
from utils.files.text import printable
from utils.run.folder.weights import load_weights
from utils.run.identity import BASE_MODEL, NOTHING, PHI
from utils.run.paths import NO_BASE_MODEL, RECORD, has_checkpoint, missing_base_model
from utils.run.settings import TrainSettings
from utils.run.start.base_model import load_base_model, pretraining_of
from utils.run.start.earlier_run import EarlierRun, has_seen, is_of_other_data, read_earlier_run, refuse_itself
from utils.run.start.phi import load_phi, read_phi


class Start:
    """The weights and the phi that a run begins with. Other runs are read here, once, because they may still be training.

    run: the folder of the run that begins; resumes: continue that run if it has a checkpoint, which contains everything it needs.
    Raises BadInput where another run that is named has no weights or no phi for this one.
    """

    def __init__(self, settings: TrainSettings, run: Path, resumes: bool = True):
        self._settings, self._run, self._resumes = settings, run, resumes
        self._weights = _weights_of_run(settings, run)
        self._phi = read_phi(settings, run, resumes)

    @cached_property
    def contents(self) -> dict[str, str]:
        """The digests of what comes from other runs, as in Identity."""
        read = {BASE_MODEL: self._weights, PHI: self._phi}
        return {name: earlier.digest for name, earlier in read.items() if earlier is not None}

    def has_weights(self) -> bool:
        """Whether there are weights to load. Raises BadInput where those that --pretrained names are needed and not there."""
        s = self._settings
        missing = missing_base_model(s.pretrained, s.model, s.dataset)
        if missing and self._resumes and has_checkpoint(self._run):
            print(f"note: there is no base model {s.pretrained} any more; going on from the checkpoint", file=sys.stderr)
        elif missing:
            begun = self._resumes and (self._run / RECORD).exists()  # with this base model: another would be another run
            advice = "or say where it is now" if begun else "name another, or none for scratch"
            raise BadInput(f"--pretrained: {missing}, {advice}")
        return s.pretrained != NO_BASE_MODEL and not missing

    def load_weights(self, net: nn.Module, contents: Mapping[str, str] = NOTHING) -> None:
        """Loads the weights that --pretrained names: a base model's, or W of another run.

        contents: of the run that begins, as in Identity: to say where the weights were trained on other data. Raises BadInput
        where they cannot be loaded.
        """
        s, path = self._settings, Path(self._settings.pretrained)
        origin = f"--pretrained (-m {s.model} -d {s.dataset})"
        if self._weights is None:
            load_base_model(path, net, origin)
            training = pretraining_of(path)
        else:
            try:
                load_weights(net, self._weights.tensors)
            except ValueError as error:
                raise BadInput(f"{origin}: {path} is the run of another net: {error}") from None
            training = self._weights.record
        if why := _doubt(training, s, contents):
            print(f"note: --pretrained {path} {why}", file=sys.stderr)

    def load_phi(self, meta_net: nn.Module | None, contents: Mapping[str, str] = NOTHING) -> None:
        """Puts the phi that --phi names, if it names one, into M. contents: of the run that begins, as in Identity."""
        if self._phi is not None:
            load_phi(meta_net, self._phi, self._settings, contents)


def _weights_of_run(settings: TrainSettings, run: Path) -> EarlierRun | None:
    """The run whose folder --pretrained names, with its W, and what else its net has, without a quantizer's parameters."""
    folder = Path(settings.pretrained)
    if settings.pretrained == NO_BASE_MODEL or not is_folder(folder, "--pretrained"):
        return None
    refuse_itself(folder, run, "--pretrained")
    try:
        earlier = read_earlier_run(folder, "net")
    except BadInput as error:
        raise BadInput(f"--pretrained: the folder {folder} has no base model: {error}") from None
    quantizer = earlier.settings.get("quantizer")
    if quantizer is None or (quantizer in QUANTIZERS and not is_trained(quantizer)):
        return earlier
    own = {name: value for name, value in earlier.tensors.items() if not name.startswith(f"{INSTALLED}.")}
    return earlier._replace(tensors=own)


def _doubt(training: Mapping[str, Any], settings: TrainSettings, contents: Mapping[str, str]) -> str | None:
    """Why weights may not be what this run should begin with; None where nothing speaks against them.

    training: the record of the run that made them, empty where it is not known.
    """
    dataset = training.get("settings", {}).get("dataset")
    if is_of_other_data(training, settings, contents):
        other = f"{printable(dataset)}, not on {settings.dataset}"
        return f"was trained on {f'data other than what {dataset} holds now' if dataset == settings.dataset else other}"
    before = training.get("settings")
    why = has_seen(before, settings)
    if settings.validation and not why and before.get("pretrained", NO_BASE_MODEL) != NO_BASE_MODEL:
        why = "began with weights that may have been trained on the validation images"
    return f"{why}: validation accuracy may be too high" if why else None
