"""Where the files of base models and runs are."""

from pathlib import Path

from utils.choices import npz_path

CHECKPOINTS = ("checkpoint.pth", "checkpoint-previous.pth")  # the newest and the one before it
LOGS = ("loss", "train-acc", "test-acc", "lr")  # a run's text files, each with the suffix .txt


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


def has_checkpoint(run: Path) -> bool:
    """Whether a run's folder holds a checkpoint, whole or not."""
    return any((run / name).exists() for name in CHECKPOINTS)


def missing_base_model(path: str | Path, model: str, dataset: str) -> str | None:
    """That there is no base model of this path, and how to make it; None where there is one, or none is asked for ("none")."""
    if path == "none" or Path(path).is_file():
        return None
    return f"there is no base model {path}; make it with 'main.py pretrain -m {model} -d {dataset}'"
