"""`export`, packed: what is not exported is named in one line, and no other file is lost for it."""

import re
import shutil

import torch
from torch import nn

from utils.choices import MODELS, QUANTIZERS


def test_an_older_export_is_replaced_and_nothing_else(runs, call_main, exported, tmp_path, tally):
    run = runs.get("-q", "BWN")
    path, _ = exported(runs.get("-q", "dorefa"))
    older = path.read_bytes()
    assert exported(run)[0].read_bytes() != older
    others = {"note.safetensors": b"my notes", "empty.safetensors": b"", "damaged.safetensors": older[:-1]}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
        outcome = call_main("export", run, tmp_path / name)
        (line,) = outcome.err.splitlines()
        assert f"FILE {tmp_path / name} exists and is not replaced, because it is no export" in line
        assert (outcome.code, outcome.out) == (2, "")
        assert (tmp_path / name).read_bytes() == content
        tally("export: another file of that name: refused, not touched")
    (tmp_path / "link.safetensors").symlink_to(path)
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("link.safetensors", "folder.safetensors"):
        outcome = call_main("export", run, tmp_path / name)
        assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
        tally("export: another file of that name: refused, not touched")
    assert path.read_bytes() != older


def test_a_full_disk_leaves_the_older_export(runs, exported, server, tmp_path, tally):
    path, _ = exported(runs.get("-q", "dorefa"))
    older = path.read_bytes()
    server.start(["export", str(runs.get("-q", "BWN-F")), str(path)], tmp_path / "log", file_size=len(older) // 2)
    assert server.wait() == 1
    assert f"main.py: error: {path} cannot be written: " in (tmp_path / "log").read_text()
    assert path.read_bytes() == older
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", path.name]
    tally("export: disk full: one line, the older export stays")


def test_what_cannot_be_exported_is_one_line(runs, call_main, tmp_path, tiny_set, tally):
    where = ["-d", tiny_set, "--results-root", tmp_path / "R", "-n", "1", "-bs", "8", "-m", "ResNet8"]
    assert call_main("pretrain", *where).code == 0
    base = tmp_path / "R" / "ResNet8-NPZ-tiny"
    run = shutil.copytree(runs.get("-q", "dorefa"), tmp_path / "damaged")
    (run / "checkpoint.pth").write_bytes((run / "checkpoint.pth").read_bytes()[:-100])
    empty = shutil.copytree(runs.get("-q", "dorefa"), tmp_path / "empty")
    (empty / "checkpoint.pth").unlink()
    target = tmp_path / "net.safetensors"
    for arguments, words in (
        ([base / "pretrain-trial-1", target], "is the run of a base model: it has no quantized weights"),
        ([base / "ResNet8-NPZ-tiny-pretrain.pth", target], "is not a run's folder"),
        ([run, target], "no checkpoint is whole and finite"),
        ([empty, target], "has no checkpoint yet"),
        ([tmp_path / "nowhere", target], "is not a run's folder"),
        ([run, tmp_path / "net.pth"], "must end in .safetensors or .onnx"),
        ([run, tmp_path / "nowhere" / "net.safetensors"], "nowhere cannot be written to: No such file or directory"),
        ([run, target, "-d", "Digits"], "-d/--dataset Digits"),
    ):
        outcome = call_main("export", *arguments)
        (line,) = outcome.err.splitlines()
        assert (outcome.code, outcome.out) == (2, "")
        assert words in line
        assert not target.exists()
        tally("export of what is no quantized run: one line, nothing written")


class Analog:
    """No quantizer at all."""

    bits = 1

    def preprocess(self, W, layout):
        return W

    def quantize(self, W_tilde, W, layout):
        return W_tilde

    def calibration(self, W, layout):
        return torch.ones_like(W)


def test_weights_of_too_many_values_are_named(runs, call_main, tmp_path, monkeypatch):
    monkeypatch.setitem(QUANTIZERS, "analog", lambda bits: Analog())
    run = runs.get("-q", "analog")
    outcome = call_main("export", run, tmp_path / "net.safetensors")
    assert (
        outcome.err
        == "main.py: error: layer2.0.conv2 cannot be packed: it has more than 256 distinct values per output channel\n"
    )
    assert (outcome.code, list(tmp_path.iterdir())) == (2, [])
    (line,) = (line for line in call_main("evaluate", run).out.splitlines() if line.startswith("layer2.0.conv2 "))
    assert " 9216 weights, " in line
    assert "; more than 8 bits, max |W^| " in line


class Moody(nn.Sequential):
    """Computes something else from the second net on."""

    made = 0

    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, num_classes))
        Moody.made += 1
        self.factor = Moody.made

    def forward(self, images):
        return super().forward(images) * self.factor


def test_a_file_that_computes_something_else_is_not_written(runs, call_main, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "moody", Moody)
    outcome = call_main("export", runs.get(model="moody"), tmp_path / "net.safetensors")
    (line,) = outcome.err.splitlines()
    assert "net.safetensors is not written: read back, it gives other results: its logits differ by up to" in line
    assert re.search(r"its accuracy is (\S+) %, too$", line)
    assert (outcome.code, outcome.out, list(tmp_path.iterdir())) == (1, "", [])


class HalfBuffer(nn.Sequential):
    """With a buffer in bfloat16, which NumPy does not have."""

    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, num_classes))
        self.register_buffer("ones", torch.ones(2, dtype=torch.bfloat16))


def test_a_buffer_in_bfloat16_is_named_and_may_be_started_from(runs, call_main, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "half", HalfBuffer)
    run = runs.get(model="half")
    outcome = call_main("export", run, tmp_path / "net.safetensors")
    assert (outcome.code, outcome.err) == (2, "main.py: error: ones cannot be written: NumPy has no bfloat16\n")
    data = ["-d", runs.data, "-bs", "8", "-n", "1", "--results-root", tmp_path]
    assert call_main("train", "-m", "half", "-meta", "STE", "--pretrained", run, *data).code == 0
