"""A run's folder by name, and its record run.json: read, and compared with the settings of a command."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from utils.dataset import npz_path
from utils.errors import BadInput, Finished

REPLACED = "replaced"
# settings of where and how, not of what is computed
MAY_DIFFER = ("data_root", "results_root", "device", "workers", "checkpoint_every", "eager", "stop_after")


def dataset_label(dataset_name: str) -> str:
    """The data set's name in folder names: NPZ:/a/set.npz is NPZ-set."""
    path = npz_path(dataset_name)
    return f"NPZ-{path.stem}" if path else dataset_name


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
        sizes = (("hidden-size", "hidden_size"), ("nfc", "num_fc"), ("nlstm", "num_lstm"))
        size = "".join(f"-{tag}-{s[key]}" for tag, key in sizes if s[key] is not None)
        name = f"Meta-{s['backward']}-Nonlinear-{s['meta_nonlinear'] or 'None'}{size}-{quantized.format('')}"
    spec = f"-{s['exp_spec']}" if s["exp_spec"] else ""
    return f"{name}{spec}-trial-{s['trial']}"


def run_path(settings: dict[str, Any]) -> Path:
    """The folder of a training run."""
    folder = experiment_folder(settings["results_root"], settings["model"], settings["dataset"])
    return folder / "runs-Quant" / run_name(settings)


def read_record(path: Path) -> dict[str, Any]:
    """A run's run.json. Raises BadInput where there is none, or not a whole one."""
    try:
        record = json.loads((path / "run.json").read_text())
    except OSError:
        raise BadInput(f"{path} is not a run's folder: it has no run.json") from None
    except ValueError as error:
        raise BadInput(f"{path / 'run.json'} is damaged: {error}") from None
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict) or not isinstance(record.get("state"), str):
        raise BadInput(f"{path / 'run.json'} is not a run's record")
    return record


def switched_on(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that are off or None: one that came later, and is off, makes no difference."""
    return {name: value for name, value in settings.items() if value is not None and value is not False}


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings in which two runs are not the same run."""
    there, here = (switched_on(json.loads(json.dumps(settings))) for settings in (old, new))
    names = sorted(name for name in there.keys() | here.keys() if name not in MAY_DIFFER and there.get(name) != here.get(name))
    if "pretrained" in names and Path(there.get("pretrained", "")).name == Path(here.get("pretrained", "")).name:
        names.remove("pretrained")  # another path; check_record looks at the bytes
    return names


def digest_of(path: str) -> str | None:
    """A file's SHA-256; None where there is none."""
    return _digest(path, Path(path).stat().st_mtime_ns) if Path(path).is_file() else None


@cache
def _digest(path: str, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_record(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a run that is to be resumed; None where it has not begun.

    Raises Finished for one that is done, BadInput where its settings are others, each difference named.
    """
    if not (path / "run.json").exists():
        return None
    record = read_record(path)
    old = record["settings"]
    if names := _differing(old, settings):
        listed = ", ".join(f"{name} {old.get(name)} there and {settings.get(name)} here" for name in names)
        another = "choose another --exp-spec, or " if "backward" in settings else ""
        raise BadInput(f"{path} has other settings: {listed}; {another}--overwrite to start over")
    began_from, base_model = record.get("base_model"), digest_of(settings.get("pretrained", ""))
    if began_from and base_model and began_from != base_model:
        raise BadInput(f"{path} began from another base model than {settings['pretrained']} is now; --overwrite starts over")
    if record.get("state") == "done":
        result = record.get("result") or {}
        found = f": test accuracy {result['top1']:.2f} % (best {result['best_top1']:.2f} %)" if "best_top1" in result else ""
        raise Finished(f"{path} is done{found}")
    return record
