"""Starts M with phi of another run: --phi RUN_DIR. M is one for all coordinates, so that it goes with any net and quantizer."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from utils.choices import META_NETWORKS, methods
from utils.errors import BadInput, shortened
from utils.files.look import is_folder, look_at
from utils.options.options import flag
from utils.run.folder.weights import load_weights
from utils.run.identity import IMPORTS, PROGRAM
from utils.run.paths import has_checkpoint
from utils.run.settings import META_OPTIONS, TrainSettings, method_defaults
from utils.run.start.earlier_run import EarlierRun, has_seen, is_of_other_data, read_earlier_run, refuse_itself

FUNCTION = ("backward", *(name for name in META_OPTIONS if name != "meta_init"))  # the settings that say which function phi is of


def read_phi(settings: TrainSettings, run: Path, resumes: bool) -> EarlierRun | None:
    """The run that --phi names, with phi as its tensors; None without the flag.

    run: the folder of the run that begins with it; resumes: its checkpoint, if it has one, holds its own phi, and the other
    folder may be gone. Raises BadInput where that has no phi for this run.
    """
    if settings.phi is None:
        return None
    folder = Path(settings.phi)
    refuse_itself(folder, run, "--phi")
    if resumes and has_checkpoint(run) and look_at(folder, "--phi") is None:
        print(f"note: there is no run {folder} any more; going on from the checkpoint", file=sys.stderr)
        return None
    return _run_with_phi(folder, settings)


def load_phi(meta_net: nn.Module, earlier: EarlierRun, settings: TrainSettings, contents: Mapping[str, str]) -> None:
    """Puts phi of another run, as read_phi returns it, into M.

    contents: of the run that begins, as in Identity. Raises BadInput where phi does not fit M.
    """
    folder = settings.phi
    if any(earlier.record.get(name) != contents.get(name) for name in (PROGRAM, IMPORTS)):
        print(f"note: --phi {folder} was trained by another program, whose M may be another function of phi", file=sys.stderr)
    if not is_of_other_data(earlier.record, settings, contents) and (why := has_seen(earlier.settings, settings)):
        print(f"note: --phi {folder} {why}: validation accuracy may be too high", file=sys.stderr)
    try:
        load_weights(meta_net, earlier.tensors)
    except ValueError as error:
        raise BadInput(f"--phi: {folder} has a phi of another form: {error}") from None


def _run_with_phi(folder: Path, settings: TrainSettings) -> EarlierRun:
    """A finished run whose M is the same function of phi as this run's."""
    if not is_folder(folder, "--phi"):
        raise BadInput(f"--phi: there is no folder {folder}")
    try:
        run = read_earlier_run(folder, "meta_net")
        its = run.settings
        if (backward := its.get("backward")) not in META_NETWORKS:
            method = f"--backward {shortened(str(backward), 50)}"
            if backward and backward not in methods():
                raise BadInput(f"this program does not know {method}: use the program that trained it")
            raise BadInput(f"it has no M: {method if backward else 'it is in full precision'}")
        if listed := _differences(its, settings):
            raise BadInput(f"its M differs: {listed}")
        if run.record["state"] != "done":
            raise BadInput(f"it is not finished: {run.record.get('epochs_done', 0)} of {its.get('epochs', '?')} epochs")
    except BadInput as error:
        raise BadInput(f"--phi: the run {folder} cannot be used: {error}") from None
    return run


def _differences(its: Mapping[str, Any], own: TrainSettings) -> str:
    """The settings of FUNCTION in which M differs, in words. What an earlier record lacks is at its default."""
    recorded = method_defaults(its["backward"]) | dict(its)
    pairs = {name: (recorded.get(name), getattr(own, name)) for name in FUNCTION}
    found = pairs if pairs["backward"][0] == own.backward else {"backward": pairs["backward"]}
    listed = (
        f"{flag(name)} {there or 'none'} there and {here or 'none'} here"
        for name, (there, here) in found.items()
        if there != here
    )
    return ", ".join(listed)
