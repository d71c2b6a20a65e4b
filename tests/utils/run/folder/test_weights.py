"""Base models in the forms in which they are found: understood and loaded strictly, or named for what they are."""

import io
import random
import warnings
import zipfile
from collections import OrderedDict

import pytest
import torch
from conftest import Malicious
from torch import nn

from utils.choices import MODELS
from utils.errors import BadInput
from utils.run.folder.weights import state_dict_in
from utils.run.start.base_model import load_base_model

ODD = "odd base model: understood, or refused in one line"
COUNTER = "num_batches_tracked"


@pytest.fixture(scope="module")
def weights():
    """A state dict of ResNet8 for 2 classes."""
    torch.manual_seed(0)
    state = MODELS.load("ResNet8")(num_classes=2).state_dict()
    return {name: torch.full_like(value, 7) if name.endswith(COUNTER) else value for name, value in state.items()}


def net():
    torch.manual_seed(1)
    return MODELS.load("ResNet8")(num_classes=2)


def renamed(weights, prefix):
    return {prefix + name: value for name, value in weights.items()}


def without_counters(weights):
    return {name: value for name, value in weights.items() if not name.endswith(COUNTER)}


def converted(weights, dtype, counters=False):
    return {name: value.to(dtype) if counters or not name.endswith(COUNTER) else value for name, value in weights.items()}


def with_metadata(weights):
    ordered = OrderedDict(weights)
    ordered._metadata = {"": {"version": "none"}}
    return ordered


UNDERSTOOD = {
    "as it is": lambda w: w,
    "no counters": without_counters,
    "one counter less": lambda w: {name: w[name] for name in w if name != f"bn1.{COUNTER}"},
    "DataParallel": lambda w: renamed(w, "module."),
    "compiled": lambda w: renamed(w, "_orig_mod."),
    "compiled, then DataParallel": lambda w: renamed(w, "module._orig_mod."),
    "DataParallel, then compiled": lambda w: renamed(w, "_orig_mod.module."),
    "state_dict": lambda w: {"state_dict": w},
    "net": lambda w: {"net": w, "acc": 91.5, "epoch": 200},
    "model": lambda w: {"model": w, "optimizer": {"state": {}, "param_groups": []}},
    "state_dict of DataParallel": lambda w: {"state_dict": renamed(w, "module."), "best_prec1": 91.5},
    "net without counters": lambda w: {"net": without_counters(w)},
    "model of compiled": lambda w: {"model": renamed(w, "_orig_mod.")},
    "state_dict beside an empty model": lambda w: {"state_dict": w, "model": {}},
    "float64": lambda w: converted(w, torch.float64),
    "parameters": lambda w: {name: nn.Parameter(value, requires_grad=value.is_floating_point()) for name, value in w.items()},
    "ordered, with odd metadata": with_metadata,
    "counters as floats": lambda w: converted(w, torch.float32, counters=True),
    "counters as int32": lambda w: w | {f"bn1.{COUNTER}": w[f"bn1.{COUNTER}"].int()},
    "channels last": lambda w: w | {"conv1.weight": w["conv1.weight"].contiguous(memory_format=torch.channels_last)},
    "a view": lambda w: w | {"fc.weight": torch.stack([w["fc.weight"]] * 2)[1]},
    "another order": lambda w: dict(reversed(w.items())),
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_odd_base_models_are_understood(case, weights, tmp_path, tally):
    path, loaded = tmp_path / "base.pth", net()
    torch.save(UNDERSTOOD[case](weights), path)
    load_base_model(path, loaded, "--pretrained")
    for name, value in loaded.state_dict().items():
        if not name.endswith(COUNTER):
            assert torch.equal(value, weights[name]), name
        elif "counter" not in case or "as" in case:
            assert value == 7
    tally(ODD)


def test_half_precision_and_the_older_format_are_understood(weights, tmp_path, tally):
    for dtype in (torch.float16, torch.bfloat16):
        torch.save(converted(weights, dtype), tmp_path / "base.pth", _use_new_zipfile_serialization=dtype == torch.float16)
        loaded = net()
        load_base_model(tmp_path / "base.pth", loaded, "--pretrained")
        assert torch.equal(loaded.conv1.weight, weights["conv1.weight"].to(dtype).float())
        tally(ODD)


def one(name, make):
    """Weights of which one is made into something else."""
    return lambda w: w | {name: make(w[name])}


def quantized(value):
    return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


def run_checkpoint(w):
    return {"settings": {}, "loop": {"net": w}, "recorder": {}, "random": {}, "result": {}}


FC, CONV, TRACKED = "fc.weight", "conv1.weight", f"bn1.{COUNTER}"
REFUSED = {  # content, words
    "a tensor as model": (
        lambda w: {"model": torch.tensor(3), "epoch": 3},
        "is not a plain state dict ... it has 'model', 'epoch'",
    ),
    "int8": (one(FC, lambda v: v.to(torch.int8)), "fc.weight is int8, not float32"),
    "uint8": (one(FC, lambda v: v.to(torch.uint8)), "fc.weight is uint8, not float32"),
    "int64": (one(FC, lambda v: v.long()), "fc.weight is int64, not float32"),
    "int8 everywhere": (lambda w: converted(w, torch.int8), "conv1.weight is int8, not float32 (and "),
    "complex": (one(FC, lambda v: v + 0j), "fc.weight is complex64, not float32"),
    "bool": (one(CONV, lambda v: v > 0), "conv1.weight is bool, not float32"),
    "float8": (one(FC, lambda v: v.to(torch.float8_e4m3fn)), "fc.weight is float8_e4m3fn, not float32"),
    "bool counter": (one(TRACKED, lambda v: v > 0), f"{TRACKED} is bool, not whole numbers"),
    "half a batch": (one(TRACKED, lambda v: v / 2), f"{TRACKED} is float32, not whole numbers"),
    "NaN batches": (one(TRACKED, lambda v: v * float("nan")), f"{TRACKED} is float32, not whole numbers"),
    "sparse": (one(CONV, lambda v: v.to_sparse()), "conv1.weight is a sparse tensor"),
    "sparse rows": (one(FC, lambda v: v.to_sparse_csr()), "fc.weight is a sparse tensor"),
    "quantized": (one(FC, quantized), "fc.weight is a quantized tensor"),
    "meta": (one(FC, lambda v: v.to("meta")), "fc.weight is a meta tensor"),
    "meta everywhere": (lambda w: {name: v.to("meta") for name, v in w.items()}, "conv1.weight is a meta tensor"),
    "no classifier": (lambda w: {n: v for n, v in w.items() if n != FC}, "fc.weight is missing"),
    "nothing": (lambda w: {}, "conv1.weight is missing (and "),
    "one more": (lambda w: w | {"fc2.weight": w[FC]}, "fc2.weight is unexpected"),
    "a name of 100,000 letters": (lambda w: w | {"x" * 100_000: w[FC]}, "xxx ... xxx"),
    "transposed": (one(FC, lambda v: v.T), "fc.weight has shape (64, 2), not (2, 64)"),
    "a number": (one(FC, lambda v: v.sum()), "fc.weight has shape (), not (2, 64)"),
    "no elements": (one(FC, lambda v: v[:0]), "fc.weight has shape (0, 64)"),
    "a huge view": (one(FC, lambda v: v[:1, :1].expand(10**9, 10**9)), "fc.weight has shape (1000000000, 1000000000)"),
    "prefixes on some": (lambda w: renamed(w, "module.") | {FC: w[FC]}, "conv1.weight is missing"),
    "another prefix": (lambda w: renamed(w, "encoder."), "conv1.weight is missing"),
    "two wrappers": (lambda w: {"net": w, "model": w}, "holds 2 state dicts, under net, model"),
    "another wrapper": (lambda w: {"weights": w}, "nor holds one under state_dict, net, model; it has 'weights'"),
    "wrapped twice": (lambda w: {"model": {"state_dict": w}}, "is not a plain state dict"),
    "wrapper around numbers": (lambda w: {"state_dict": {"conv1.weight": 1.0}}, "is not a plain state dict"),
    "wrapper around a list": (lambda w: {"state_dict": list(w.values())}, "is not a plain state dict"),
    "numbers as names": (lambda w: dict(enumerate(w.values())), "is not a plain state dict"),
    "a value that is no tensor": (one(FC, lambda v: v.tolist()), "is not a plain state dict"),
    "a run's checkpoint": (run_checkpoint, "is the checkpoint of a run: give the run's folder"),
    "an optimizer": (lambda w: {"state": {0: {}}, "param_groups": [{"lr": 0.1}]}, "it has 'state', 'param_groups'"),
    "a list": (lambda w: list(w.values()), "but of type list"),
    "a tensor": (lambda w: w[FC], "but of type Tensor"),
    "None": (lambda w: None, "but of type NoneType"),
    "a text": (lambda w: "weights", "but of type str"),
    "a module": (lambda w: nn.Linear(1, 1), "not a readable file of plain tensors"),
    "code": (lambda w: {FC: Malicious("/nowhere/at/all")}, "not a readable file of plain tensors"),
}


def refusal(path):
    """The line that it is refused with; torch's warnings would be more lines."""
    with warnings.catch_warnings(action="error"), pytest.raises(BadInput) as error:
        load_base_model(path, net(), "--pretrained")
    (line,) = str(error.value).splitlines()
    assert line.startswith("--pretrained: ")
    assert len(line) < 1000
    return line


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns of its prototypes
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_base_model_is_named(case, weights, tmp_path, tally):
    make, words = REFUSED[case]
    torch.save(make(weights), tmp_path / "base.pth")
    line = refusal(tmp_path / "base.pth")
    assert all(part in line for part in words.split(" ... "))
    tally(ODD)


def test_files_that_torch_did_not_write_are_one_line(weights, tmp_path, tally):
    path, file = tmp_path / "base.pth", io.BytesIO()
    torch.save(weights, file)
    whole = file.getvalue()
    contents = [b"", b"PK", b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18, b"text", whole[:-1000], whole[:30] + whole, whole[100:]]
    for data in contents:
        path.write_bytes(data)
        assert "not a readable file of plain tensors" in refusal(path)
        tally(ODD)
    path.unlink()
    path.mkdir()
    assert "there is no file" in refusal(path)
    assert "there is no file" in refusal(path / "a" / "b")
    tally(ODD, 2)


def test_cuts_and_flips_are_one_line_or_harmless(weights, tmp_path, tally):
    path, file, moments = tmp_path / "base.pth", io.BytesIO(), random.Random(0)
    torch.save({FC: weights[FC]}, file)  # of another net, so that what torch still reads is refused, too
    for trial in range(40):
        data = bytearray(file.getvalue())
        if trial % 2:
            del data[moments.randrange(len(data)) :]
        else:
            data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
        path.write_bytes(data)
        refusal(path)
        tally(ODD)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2], ids=["deflated", "bzip2"])
def test_compressed_files_are_not_unpacked(compression, tmp_path, tally):
    """torch.load itself would inflate them, to whatever size."""
    torch.save({FC: torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "base.pth", "w", compression) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "base.pth").stat().st_size < 50_000
    assert "its entries are compressed, or overlap" in refusal(tmp_path / "base.pth")
    tally("file that unpacks to far more than it takes: refused before it is unpacked")


def test_two_state_dicts_in_a_file_are_named():
    weights = {"w": torch.ones(1)}
    with pytest.raises(ValueError, match="holds 2 state dicts, under net, model: save the one you mean by itself"):
        state_dict_in({"net": weights, "model": weights})
