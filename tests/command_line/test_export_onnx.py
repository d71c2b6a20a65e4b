"""`export` as ONNX: onnxruntime computes what the net computes, and the quantized weights keep their few values."""

import importlib.util
import re
import sys

import numpy as np
import pytest
import torch

from meta_utils.metaquantize import plain_copy
from utils.run.evaluation import find_trained
from utils.run.exported.packed import pack

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the packages for ONNX are not installed (requirements-export.txt)",
)


@pytest.mark.parametrize(("model", "flags"), [("ResNet8", ["-q", "dorefa", "--keep", "conv1"]), ("Odd", ["-q", "BWN-F"])])
def test_an_onnx_file_is_the_net(model, flags, runs, call_main, tmp_path):
    import onnx
    import onnxruntime

    run, path = runs.get(*flags, model=model), tmp_path / "net.onnx"
    outcome = call_main("export", run, path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"wrote {path}\n\n| parameters | ")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]

    trained = find_trained(run, None, None)
    net = trained.build(trained.load_test_data(""), torch.device("cpu")).eval()
    expected = plain_copy(net, trained.quantizer).state_dict()
    model_proto = onnx.load(path)
    onnx.checker.check_model(model_proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in model_proto.opset_import] == [("", 18)]
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model_proto.graph.initializer}
    for layer in net.meta.layers:
        W_hat = found[layer.uses[0]]
        assert W_hat.tobytes() == expected[layer.uses[0]].contiguous().numpy().tobytes()
        assert pack(W_hat, layer.filters).bits == 1
        assert len(np.unique(W_hat)) == 2 or "BWN-F" in flags
    operators = [node.op_type for node in model_proto.graph.node]
    assert operators.count("BatchNormalization") == sum(name.endswith("running_mean") for name in expected)
    assert str(tmp_path).encode() not in path.read_bytes().replace(str(trained.dataset).encode(), b"")
    assert b"site-packages" not in path.read_bytes()

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 3):
        images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        with torch.no_grad():
            logits = net(images, trained.quantizer).numpy()
        np.testing.assert_allclose(session.run(["logits"], {"images": images.numpy()})[0], logits, rtol=1e-4, atol=1e-4)

    lines = [call_main("evaluate", place) for place in (run, path)]
    assert [outcome.err for outcome in lines] == ["", ""]
    first, *layers = (outcome.out.splitlines() for outcome in lines)
    assert first[1:] == layers[0][1:]
    assert re.match(r"top-1 \S+ %", first[0])[0] == re.match(r"top-1 \S+ %", layers[0][0])[0]
    in_bf16 = call_main("evaluate", path, "--precision", "bf16")
    assert in_bf16.out == lines[1].out
    assert in_bf16.err == "note: --precision has no effect with an ONNX file, which computes in float32\n"


def test_another_file_is_not_replaced(runs, call_main, tmp_path, tally):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"my notes")
    outcome = call_main("export", runs.get("-q", "BWN"), path)
    (line,) = outcome.err.splitlines()
    assert f"FILE {path} exists and is not replaced, because it is no export" in line
    assert (outcome.code, outcome.out, path.read_bytes()) == (2, "", b"my notes")
    tally("export: another file of that name: refused, not touched")


def test_without_the_packages_one_line_says_what_to_install(runs, call_main, tmp_path, monkeypatch):
    run, path = runs.get("-q", "dorefa", "--keep", "conv1"), tmp_path / "net.onnx"
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    for arguments in (["export", run, path], ["evaluate", path]):
        if arguments[0] == "evaluate":
            path.write_bytes(b"")
        outcome = call_main(*arguments)
        line = "ONNX needs onnx, onnxruntime: pip install -r requirements-export.txt"
        assert (outcome.code, outcome.out, outcome.err) == (2, "", f"main.py: error: {line}\n")
    assert path.read_bytes() == b""
