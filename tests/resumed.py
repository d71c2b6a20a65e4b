"""Commands of runs that are interrupted, and what must be the same in such a run and in one that was not."""

import json

import torch

from utils.run.folder.checkpoint import load_tensors

LOGS = ("loss.txt", "train-acc.txt", "test-acc.txt", "lr.txt")
LAYERS = "layers.csv"  # of a run with a quantizer
LITTLE = ["-m", "ResNet8", "-bs", "4", "-n", "2", "-lr", "0.05"]  # two epochs
STE = ["-meta", "STE", "--pretrained", "none"]


def train_little(root, data, *flags):
    """The command of a little training run."""
    return ["train", *LITTLE, "-d", data, "--results-root", str(root), *flags]


def only_run(root):
    (record,) = root.rglob("run.json")
    return record.parent


def record_of(run):
    """A run's record."""
    return json.loads((run / "run.json").read_text())


def outcome(root):
    """What must not depend on interruptions: the logs' bytes, the final weights, phi."""
    run = only_run(root)
    state = load_tensors(run / "checkpoint.pth", "test", checksum_required=True)
    weights = {f"{part} {name}": value for part in ("net", "meta_net") for name, value in state["loop"][part].items()}
    return log_bytes(run), weights


def log_bytes(run):
    """The bytes of a run's logs."""
    names = [*LOGS, LAYERS] if (run / LAYERS).exists() else LOGS
    return {name: (run / name).read_bytes() for name in names}


def assert_same(root, reference):
    logs, weights = outcome(root)
    expected_logs, expected_weights = outcome(reference)
    assert logs == expected_logs
    assert len(logs["loss.txt"].splitlines()) == 12
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        assert torch.equal(weights[name], value), name


def files_of(root):
    """The bytes of all files below a folder but locks."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "run.lock"}


def without_checkpoints(folder):
    """Deletes a run's checkpoints."""
    for path in folder.glob("checkpoint*.pth"):
        path.unlink()


def cut_checkpoints(folder):
    """Takes the last bytes off a run's checkpoints."""
    for path in folder.glob("checkpoint*.pth"):
        path.write_bytes(path.read_bytes()[:-50])


def assert_no_start(outcome, flag, words, root):
    """That a run was refused in one line which begins with the flag and holds the words, and that nothing was written."""
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"main.py: error: {flag}")
    assert words in line
    assert (outcome.code, root.exists()) == (2, False)
