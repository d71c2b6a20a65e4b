"""Where the files of base models and runs are."""

import os
from pathlib import Path

from utils.choices import MODELS, TORCHVISION, npz_path, torchvision_name
from utils.errors import BadInput, shortened
from utils.files.look import is_file
from utils.options.kinds import LONGEST_NAME

NO_BASE_MODEL = "none"  # in the place of --pretrained's path
RECORD = "run.json"  # of a run, in its folder
CHECKPOINTS = ("checkpoint.pth", "checkpoint-previous.pth")  # the newest and the one before it
EXPORTED = PACKED, ONNX = (".safetensors", ".onnx")  # the endings of exported files
TORCHVISION_LABEL = "torchvision-"
ASIDE = len("-previous.pth.tmp") - len(".pth")  # the bytes that a base model's name grows by while it is replaced


def checked_name(name: str, advice: str, room: int = 0) -> str:
    """A name for a file or folder; room: bytes by which it will grow. Raises BadInput where it is too long, with the advice."""
    if (size := len(os.fsencode(name)) + room) > LONGEST_NAME:
        problem = f"the name {shortened(name, 100)} would have {size} bytes, and a file system takes {LONGEST_NAME}"
        raise BadInput(f"{problem}: {advice}")
    return name


def model_label(model: str) -> str:
    """The net's name in folder and file names: torchvision:resnet18 is torchvision-resnet18."""
    classifier = torchvision_name(model)
    return f"{TORCHVISION_LABEL}{classifier}" if classifier else model


def model_of(label: str) -> str:
    """The net whose label this is."""
    of_torchvision = label.startswith(TORCHVISION_LABEL) and label not in MODELS
    return f"{TORCHVISION}{label.removeprefix(TORCHVISION_LABEL)}" if of_torchvision else label


def dataset_label(dataset_name: str) -> str:
    """The data set's name in folder names: NPZ:/a/set.npz is NPZ-set."""
    path = npz_path(dataset_name)
    return f"NPZ-{path.stem}" if path else dataset_name


def experiment_folder(results_root: str | Path, model: str, dataset: str) -> Path:
    """<results_root>/<Model>-<Dataset>, which holds the base model and the runs."""
    return Path(results_root) / checked_name(f"{model_label(model)}-{dataset_label(dataset)}", "give the NPZ file a shorter name")


def base_model_path(results_root: str | Path, model: str, dataset: str) -> Path:
    """Where `pretrain` writes and `train` looks for the full-precision base model."""
    folder = experiment_folder(results_root, model, dataset)
    return folder / checked_name(f"{folder.name}-pretrain.pth", "give the NPZ file a shorter name", room=ASIDE)


def has_checkpoint(run: Path) -> bool:
    """Whether a run's folder holds a checkpoint, whole or not."""
    return any((run / name).exists() for name in CHECKPOINTS)


def missing_base_model(path: str | Path, model: str, dataset: str) -> str | None:
    """A message that the base model is missing, and how to make it; None where a file or folder is, or none is asked for."""
    try:
        if path == NO_BASE_MODEL or is_file(path) or os.path.isdir(path):
            return None
    except BadInput as error:
        return f"the base model {error}"
    return f"there is no base model {path}; make it with the command 'pretrain -m {model} -d {dataset}'"
