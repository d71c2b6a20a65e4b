"""`export`, packed: the file is the net bit for bit, says what it is, and can be read without this project."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT

from meta_utils.metaquantize import plain_copy
from utils.run.evaluation import find_trained
from utils.run.exported.packed import pack


def built(path):
    """A run's or file's net in eval mode, its quantizer, the test loader."""
    trained = find_trained(path, None, None)
    loader = trained.load_test_data("")
    return trained.build(loader, torch.device("cpu")).eval(), trained.quantizer, loader


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
    "five axes, and turned inputs": (["-q", "dorefa", "-bw", "3"], "Turned", [1, 2, 3]),
    "built lazily": (["-q", "BWN"], "Lazy", [1]),
    "torchvision": (["-q", "dorefa", "--keep", "fc"], "torchvision:shufflenet_v2_x0_5", [1]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_packed_file_is_the_net_bit_for_bit(case, runs, exported, call_main):
    flags, model, bits = CASES[case]
    run = runs.get(*flags, model=model)
    path, table = exported(run)
    net, quantizer, loader = built(run)
    other, none, _ = built(path)
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
def test_the_readmes_reader_needs_numpy_and_safetensors_alone(case, runs, exported, tmp_path):
    flags, model, _ = CASES[case]
    run = runs.get(*flags, model=model)
    path, _ = exported(run)
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
    net, quantizer, _ = built(run)
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


def exported_epochs(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["epochs_done"])


def test_an_unfinished_run_is_exported_with_a_note(call_main, tmp_path, tiny_set):
    where = ["-d", tiny_set, "--results-root", tmp_path / "R", "-m", "ResNet8", "--pretrained", "none"]
    assert call_main("train", *where, "-bs", "4", "-n", "3", "--stop-after", "3").code == 0
    (run,) = (tmp_path / "R" / "ResNet8-NPZ-tiny" / "runs-Quant").iterdir()
    outcome = call_main("export", run, tmp_path / "net.safetensors")
    assert (outcome.code, outcome.err) == (0, f"note: {run} is unfinished: 1 of 3 epochs, 3 iterations\n")
    assert exported_epochs(tmp_path / "net.safetensors") == 1
    (run / "checkpoint.pth").unlink()  # the one before it is of the epoch's end
    behind = call_main("export", run, tmp_path / "net.safetensors")
    assert f"note: {run} is unfinished: 1 of 3 epochs, 2 iterations\n" in behind.err
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"epochs_done": 2, "iterations_done": 4}))  # as the run trains on
    assert call_main("export", run, tmp_path / "net.safetensors").code == 0
    assert exported_epochs(tmp_path / "net.safetensors") == 1
    moved = shutil.copytree(run, tmp_path / "moved")
    (tmp_path / "moved" / "run.json").write_text((run / "run.json").read_text().replace("NPZ:", "NPZ:/gone"))
    outcome = call_main("export", moved, tmp_path / "net.safetensors", "-d", tiny_set)
    assert outcome.code == 0, outcome.err
    assert call_main("evaluate", tmp_path / "net.safetensors").code == 0
