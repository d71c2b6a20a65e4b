"""A run's folder and its record run.json, base-model files, and the seeding of a trial."""

import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from utils.miscellaneous import BadInput

PROJECT = Path(__file__).resolve().parent.parent


def dataset_label(dataset_name: str) -> str:
    """The data set's name in folder names: NPZ:/a/set.npz is NPZ-set."""
    return f"NPZ-{Path(dataset_name[4:]).stem}" if dataset_name.startswith("NPZ:") else dataset_name


def experiment_folder(results_root: str | Path, model: str, dataset: str) -> Path:
    """<results_root>/<Model>-<Dataset>, which holds the base model and the runs."""
    return Path(results_root) / f"{model}-{dataset_label(dataset)}"


def base_model_path(results_root: str | Path, model: str, dataset: str) -> Path:
    """Where `pretrain` writes and `train` looks for the full-precision base model."""
    folder = experiment_folder(results_root, model, dataset)
    return folder / f"{folder.name}-pretrain.pth"


def run_name(settings: dict[str, Any]) -> str:
    """The folder name of a training run, from its resolved settings."""
    s = settings
    quantized = f"{s['quantizer']}-{{}}{s['optimizer']}-{s['bits']}bits-lr-{s['lr_adjust']}"
    if s["backward"] == "STE":
        name = "Baseline-" + quantized.format("optimizer-")
    else:
        size = "".join(f"-{tag}-{s[key]}" for tag, key in (("nfc", "num_fc"), ("nlstm", "num_lstm")) if s[key] is not None)
        nonlinear = s["meta_nonlinear"] or "None"
        name = f"Meta-{s['backward']}-Nonlinear-{nonlinear}-hidden-size-{s['hidden_size']}{size}-{quantized.format('')}"
    spec = f"-{s['exp_spec']}" if s["exp_spec"] else ""
    return f"{name}{spec}-trial-{s['trial']}"


def run_path(settings: dict[str, Any]) -> Path:
    """The folder of a training run."""
    folder = experiment_folder(settings["results_root"], settings["model"], settings["dataset"])
    return folder / "runs-Quant" / run_name(settings)


def seed_everything(seed: int, trial: int) -> int:
    """Seeds Python, NumPy and torch from (seed, trial); returns the seed of the trial's data order."""
    python, numpy, torch_seed, data = np.random.SeedSequence([seed, trial]).generate_state(4).tolist()
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(torch_seed)
    return data


def choose_device(name: str) -> torch.device:
    """The device by its flag; auto is CUDA where there is one, else the CPU. Raises BadInput for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def load_base_model(path: str | Path, net: nn.Module, what: str) -> None:
    """Loads a state dict into the net strictly; `what` names flag and net in the error.

    Raises BadInput for a file that is absent, unreadable, not a plain state dict, or of another net.
    """
    weights = read_weights(path, what)
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
        raise BadInput(f"{what}: {path} is not a base model of this net: {wrong[0]}{more}")
    net.load_state_dict(weights)


def read_file(path: str | Path, what: str) -> Any:
    """torch.load on the CPU with weights_only=True. Raises BadInput for a file that is absent or holds anything but tensors."""
    if not Path(path).is_file():
        raise BadInput(f"{what}: there is no file {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damaged bytes lead to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{what}: {path} is not a readable file of plain tensors ({reason})") from None


def read_weights(path: str | Path, what: str) -> dict[str, torch.Tensor]:
    """A plain state dict from a file. Raises BadInput as read_file does, or where it is not one."""
    weights = read_file(path, what)
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BadInput(f"{what}: {path} is not a plain state dict (name -> tensor)")
    return weights


def save_atomically(state: Any, path: Path) -> None:
    """torch.save under a temporary name in the same folder, then rename: the file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class Run:
    """A run's folder and its record run.json, rewritten whole at every change.

    State: running, done or failed. Raises BadInput where the folder exists already.
    """

    def __init__(self, path: Path, settings: dict[str, Any], device: torch.device):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise BadInput(f"{path} exists already: choose another --trial or --exp-spec, or move it away") from None
        self.path, self.device = path, device
        self._started = time.time()
        self.record = {
            "state": "running",
            "settings": settings,
            "command": sys.argv,
            "versions": versions(),
            "device": describe(device),
            "hostname": platform.node(),
            "git": git_state(),
            "started": _now(),
        }
        self.write()

    def write(self, **changes: Any) -> None:
        """Updates the record and run.json."""
        self.record.update(changes)
        temporary = self.path / "run.json.tmp"
        temporary.write_text(json.dumps(self.record, indent=1) + "\n")
        temporary.replace(self.path / "run.json")

    def save(self, weights: dict[str, Any]) -> None:
        """Writes checkpoint.pth."""
        save_atomically(weights, self.path / "checkpoint.pth")

    def finish(self, state: str, **changes: Any) -> None:
        """The last record: state, end, peak memory, and what else is given."""
        seconds = time.time() - self._started
        self.write(state=state, ended=_now(), seconds=seconds, peak_memory=peak_memory(self.device), **changes)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make the numbers."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }


def describe(device: torch.device) -> str:
    """The device in words, with its name or its number of threads."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    return f"{device}: {platform.machine()}, {torch.get_num_threads()} threads"


def git_state() -> dict[str, Any] | None:
    """The commit this code is at and whether files differ from it; None outside a repository."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", PROJECT, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != PROJECT:
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory(device: torch.device) -> dict[str, int]:
    """Bytes: the process's largest resident set, and the most that CUDA tensors took."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"cpu_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["cuda"] = torch.cuda.max_memory_allocated(device)
    return peak
