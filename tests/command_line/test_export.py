"""`export`, packed: the file is the net bit for bit, can be read without this project, and nothing else is lost for it."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT
from exported_runs import Odd, PerRow, Runs
from torch import nn

from meta_utils.metaquantize import plain_copy
from utils.choices import MODELS, QUANTIZERS
from utils.run.evaluation import find_trained
from utils.run.exported.packed import pack

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_set):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "Odd", Odd)
        patch.setitem(QUANTIZERS, "per-row", lambda bits: PerRow())
        yield Runs(tmp_path_factory.mktemp("runs"), tiny_set)


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


def built(path, tiny_set):
    """A run's or file's net in eval mode, its quantizer, the test loader."""
    trained = find_trained(path, None, None)
    loader = trained.load_test_data("")
    return trained.build(loader, CPU).eval(), trained.quantizer, loader


CASES = {  # flags, net, bits that a weight may take
    "dorefa": (["-q", "dorefa"], "ResNet8", [1]),
    "dorefa, 2 bits": (["-q", "dorefa", "-bw", "2"], "ResNet8", [2]),
    "BWN": (["-q", "BWN"], "ResNet8", [1]),
    "BWN-F": (["-q", "BWN-F"], "ResNet8", [1]),
    "layers kept": (["-q", "BWN", "--keep", "conv1", "fc"], "ResNet8", [1]),
    "BWN-F, other layers": (["-q", "BWN-F"], "Odd", [1]),
    "a quantizer of one's own": (["-q", "per-row"], "Odd", [2, 3, 4]),
    "LSQ, 2 bits": (["-q", "LSQ", "-bw", "2"], "ResNet8", [2]),
    "TTQ": (["-q", "TTQ"], "ResNet8", [2]),
    "ternary": (["-q", "ternary"], "ResNet8", [2]),
    "torchvision": (["-q", "dorefa", "--keep", "fc"], "torchvision:shufflenet_v2_x0_5", [1]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_packed_file_is_the_net_bit_for_bit(case, runs, exported, call_main, tiny_set):
    flags, model, bits = CASES[case]
    run = runs.get(*flags, model=model)
    path, table = exported(run)
    net, quantizer, loader = built(run, tiny_set)
    other, none, _ = built(path, tiny_set)
    assert none is None
    with torch.no_grad():
        for images, _ in loader:
            assert torch.equal(net(images, quantizer), other(images))
        for layer, W_hat in zip(other.meta.layers, net.meta.quantized(quantizer), strict=True):
            assert torch.equal(layer.weight, W_hat)
            assert torch.equal(layer.weight.view(torch.int32)[W_hat != 0], W_hat.view(torch.int32)[W_hat != 0])
    plain = plain_copy(net, quantizer).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in other.state_dict().items())

    lines = [call_main("evaluate", place).out for place in (run, path)]
    assert lines[0] == lines[1]
    assert sum(lines[0].count(f"; {number} bit") for number in bits) == len(net.meta.layers)
    accuracy = re.match(r"top-1 (\S+ %)", lines[0])[1]
    assert (table["accuracy before"], table["after"]) == (accuracy, accuracy)
    parameters = sum(p.numel() for p in other.parameters())
    assert table["parameters"] == f"{parameters:,}"
    assert table["bytes of the file"] == f"{path.stat().st_size:,}"
    counters = sum(name.endswith("num_batches_tracked") for name in plain)
    statistics = sum(value.numel() for name, value in plain.items() if "running" in name)
    in_float32 = 4 * (parameters + statistics) + 8 * counters
    assert table["bytes in float32"] == f"{in_float32:,}"
    assert table["ratio"] == f"{in_float32 / path.stat().st_size:.1f}"
    packed = [
        pack(W_hat.numpy(), layer.filters) for layer, W_hat in zip(net.meta.layers, net.meta.quantized(quantizer), strict=True)
    ]
    saved = sum(4 * weight.count - weight.nbytes for weight in packed)
    assert table["bytes packed"] == f"{in_float32 - saved:,}"


def readme_reader():
    page = (PROJECT / "README.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "read_weights" in block]
    return code


@pytest.mark.parametrize("case", ["dorefa, 2 bits", "BWN-F, other layers", "a quantizer of one's own", "layers kept"])
def test_the_readmes_reader_needs_numpy_and_safetensors_alone(case, runs, exported, tmp_path, tiny_set):
    flags, model, _ = CASES[case]
    path, _ = exported(runs.get(*flags, model=model))
    code = readme_reader()
    assert len(code.strip().splitlines()) <= 20
    assert set(re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE)) == {"json", "numpy", "safetensors"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = f"""{code}
import importlib.util, sys
assert importlib.util.find_spec("utils") is None and importlib.util.find_spec("meta_utils") is None
arrays, about = read_weights(sys.argv[1])
assert "torch" not in sys.modules
np.savez(sys.argv[2], **arrays)
print(about["architecture"], about["quantizer"], about["test"]["top1"])
"""
    (elsewhere / "read.py").write_text(program)
    command = [sys.executable, "-I", "read.py", path, "found.npz"]
    process = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    net, quantizer, _ = built(runs.get(*flags, model=model), tiny_set)
    assert process.stdout.split()[:2] == [model, flags[1]]
    expected = plain_copy(net, quantizer).state_dict()
    with np.load(elsewhere / "found.npz") as found:
        assert set(found) == set(expected)
        for name, value in expected.items():
            wanted = value.contiguous().numpy()
            assert found[name].dtype == wanted.dtype
            assert found[name].shape == wanted.shape
            assert found[name].tobytes() == wanted.tobytes(), name


def test_the_metadata_say_what_the_file_is(runs, exported, tiny_set):
    from safetensors import safe_open

    run = runs.get("-q", "BWN", "--keep", "conv1", "fc")
    path, _ = exported(run)
    record = json.loads((run / "run.json").read_text())
    with safe_open(path, "np") as file:
        about = {name: json.loads(text) for name, text in file.metadata().items()}
        dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 (no mapping)
    expected = {"architecture": "ResNet8", "num_classes": 2, "keep": ["conv1", "fc"], "quantizer": "BWN", "bits": 1}
    expected |= {
        "image_size": [3, 32, 32],
        "dataset": tiny_set,
        "run": run.name,
        "epochs_done": 1,
        "epochs": 1,
        "format_version": 1,
    }
    assert {name: about[name] for name in expected} == expected
    assert about["contents"] == {"data_digest": record["data_digest"]}
    assert about["commit"] == (record["git"] or {}).get("commit")
    assert about["test"] == pytest.approx({name: record["result"][name] for name in ("top1", "top5", "loss")})
    loader = find_trained(run, None, None).load_test_data("")
    assert (about["mean"], about["std"]) == (list(loader.image_set.mean), list(loader.image_set.std))
    assert {dtype for name, dtype in dtypes.items() if name.endswith(".codes")} == {"U8"}
    assert {dtype for name, dtype in dtypes.items() if name.endswith("num_batches_tracked")} == {"I64"}
    assert {dtype for name, dtype in dtypes.items() if not name.endswith((".codes", "num_batches_tracked"))} == {"F32"}


def test_what_has_two_names_is_stored_once(runs, exported):
    path, _ = exported(runs.get("-q", "BWN-F", model="Odd"))
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        names, tied = set(file.keys()), json.loads(file.metadata()["tied"])
    assert tied == {"second.weight": "first.weight", "again.weight": "inner.weight", "again.bias": "inner.bias"}
    assert names >= {"first.weight.codes", "inner.weight.codes", "inner.bias"}
    assert not [name for name in names if name.startswith(("second", "again"))]


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


def test_an_unfinished_run_is_exported_with_a_note(call_main, tmp_path, tiny_set):
    where = ["-d", tiny_set, "--results-root", tmp_path / "R", "-m", "ResNet8", "--pretrained", "none"]
    assert call_main("train", *where, "-bs", "4", "-n", "3", "--stop-after", "3").code == 0
    (run,) = (tmp_path / "R" / "ResNet8-NPZ-tiny" / "runs-Quant").iterdir()
    outcome = call_main("export", run, tmp_path / "net.safetensors")
    assert (outcome.code, outcome.err) == (0, f"note: {run} is unfinished: 1 of 3 epochs, 3 iterations\n")
    moved = shutil.copytree(run, tmp_path / "moved")
    (tmp_path / "moved" / "run.json").write_text((run / "run.json").read_text().replace("NPZ:", "NPZ:/gone"))
    outcome = call_main("export", moved, tmp_path / "net.safetensors", "-d", tiny_set)
    assert outcome.code == 0, outcome.err
    assert call_main("evaluate", tmp_path / "net.safetensors").code == 0


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
    assert "net.safetensors is not written: what was written for it computes something else: its logits differ by up to" in line
    assert (outcome.code, outcome.out, list(tmp_path.iterdir())) == (1, "", [])
