"""A base model, training runs of two epochs, and quantized runs that are exported."""

import json

import pytest
import torch
from exported_runs import Lazy, Odd, PerRow, Runs, Turned

from utils.choices import MODELS, QUANTIZERS


class Result:
    """What a finished training run left behind."""

    def __init__(self, path):
        self.path = path
        self.record = json.loads((path / "run.json").read_text())
        self.logs = {name: (path / f"{name}.txt").read_text() for name in ("loss", "train-acc", "test-acc", "lr")}
        self.state = torch.load(path / "checkpoint.pth", weights_only=True)

    def behaviour(self, what):
        if what in ("net", "meta_net"):
            return [(name, tuple(value.shape), value.tolist()) for name, value in self.state["loop"][what].items()]
        return self.logs[what]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory, tiny_set):
    """A base model of ResNet8 for the tiny set, at random."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("base") / "base.pth"
    torch.save(MODELS.load("ResNet8")(num_classes=2).state_dict(), path)
    return path


@pytest.fixture
def train(call_main, tmp_path, tiny_set, base_model):
    """train(*flags): two epochs of two iterations into a folder of its own; returns its Result."""
    counter = iter(range(100))

    def run(*flags):
        root = tmp_path / str(next(counter))
        arguments = ["-m", "ResNet8", "-d", tiny_set, "-bs", 4, "-n", 2, "-lr", 0.05, "--meta-lr", 0.1]
        if "STE" in flags:
            arguments = arguments[:-2]
        arguments += ["--pretrained", base_model, "--results-root", root, *flags]
        outcome = call_main("train", *arguments)
        assert outcome.code == 0, outcome.err
        (record,) = root.rglob("run.json") if "--results-root" not in flags else (tmp_path / "elsewhere").rglob("run.json")
        return Result(record.parent)

    return run


@pytest.fixture(scope="module")
def trained():
    """Flags -> the Result of a run with them; filled by `train_once`."""
    return {}


@pytest.fixture
def train_once(train, trained):
    """train(*flags), or what it gave before in this module: a run that several tests compare with."""

    def run(*flags):
        if flags not in trained:
            trained[flags] = train(*flags)
        return trained[flags]

    return run


@pytest.fixture(scope="session")
def all_runs(tmp_path_factory, tiny_set):
    return Runs(tmp_path_factory.mktemp("runs"), tiny_set)


@pytest.fixture
def runs(all_runs, monkeypatch):
    """Quantized runs by their flags; there are the nets Odd, Turned and Lazy and a quantizer per-row meanwhile."""
    for net in (Odd, Turned, Lazy):
        monkeypatch.setitem(MODELS, net.__name__, net)
    monkeypatch.setitem(QUANTIZERS, "per-row", lambda bits: PerRow())
    return all_runs


@pytest.fixture
def exported(call_main, tmp_path):
    """exported(run): the run's packed file, and the line of the printed table by its headings."""

    def export(run, name="net.safetensors"):
        outcome = call_main("export", run, tmp_path / name)
        assert (outcome.code, outcome.err) == (0, "")
        first, _, head, _, row = outcome.out.splitlines()
        assert first == f"wrote {tmp_path / name}"
        assert [path.name for path in tmp_path.iterdir()] == [name]
        fields = [[field.strip() for field in line.strip("|").split("|")] for line in (head, row)]
        return tmp_path / name, dict(zip(*fields, strict=True))

    return export
