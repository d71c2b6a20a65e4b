"""A quantizer's own parameters in a run: begun with once, saved, resumed, evaluated."""

import json
from functools import partial

import pytest
import torch
from resumed import assert_same, only_run

from utils.choices import MODELS
from utils.run.folder.checkpoint import load_tensors, save_tensors

CASES = [
    ["-q", "LSQ", "-bw", "2", "-meta", "MultiFC", "-o", "SGD-M", "--quantizer-lr", "0.02"],
    ["-q", "TTQ", "-meta", "STE", "-o", "Adam", "--checkpoint-every", "1it"],
]
LEVELS = {"LSQ": lambda s: [-2 * s[0], -s[0], 0, s[0]], "TTQ": lambda s: [-s[1], 0, s[0]]}  # W_p is named before W_n


@pytest.fixture
def base_model(tmp_path):
    """A base model of ResNet8 for two classes, at random, in a folder of its own."""
    torch.manual_seed(5)
    path = tmp_path / "base" / "base.pth"
    path.parent.mkdir()
    torch.save(MODELS.load("ResNet8")(num_classes=2).state_dict(), path)
    return path


@pytest.mark.parametrize("flags", CASES, ids=" ".join)
def test_resumed_without_its_base_model_and_evaluated(flags, command, call_main, base_model, tmp_path, tally):
    """The very bytes of the run that was not stopped; `evaluate` shows the values that training ended with."""
    flags = [*flags, "--pretrained", str(base_model)]
    assert call_main(*command("whole", *flags)).code == 0
    assert call_main(*command("stopped", *flags, "--stop-after", "5")).code == 0
    base_model.unlink()  # what is begun with on resume is random, and must not matter
    outcome = call_main(*command("stopped", *flags))
    assert outcome.code == 0, outcome.err
    assert "resumed after 5 iterations" in outcome.out
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    tally("--stop-after, then without it")

    run = only_run(tmp_path / "stopped")
    record, state = json.loads((run / "run.json").read_text()), load_tensors(run / "checkpoint.pth", "test")["loop"]
    assert [group["name"] for group in record["optimizers"]["net"]] == ["net", "quantizer"]
    assert record["settings"]["bits"] == 2
    alpha = record["settings"]["init_lr"]
    rates = [group["lr"] for group in state["optimizee"]["param_groups"]]
    assert rates == pytest.approx([1e-3 * alpha, 1e-3 * (record["settings"]["quantizer_lr"] or alpha)])  # after three drops
    own = [value for name, value in state["net"].items() if name.startswith("quantizer.")]
    lines = call_main("evaluate", run).out.splitlines()
    assert lines[0].startswith(f"top-1 {record['result']['top1']:.2f} % ")
    assert len(lines) == 1 + 10 + 1
    for line, *values in zip(lines[1:-1], *own, strict=True):
        shown = [float(value) for value in line.partition("values: ")[2].partition(";")[0].split(", ")]
        expected = LEVELS[record["settings"]["quantizer"]]([abs(value.item()) for value in values])
        assert max(shown) == pytest.approx(expected[-1], rel=1e-3)
        assert all(value in map(partial(pytest.approx, rel=1e-3), expected) for value in shown)  # not every layer has -2s


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda loop: loop["net"].pop("quantizer.s"), "net: quantizer.s is missing"),
        (lambda loop: loop["net"].update({"quantizer.s": torch.ones(7)}), "net: quantizer.s has shape (7,), not (10,)"),
        (lambda loop: loop["net"].update({"quantizer.W_p": torch.ones(10)}), "net: quantizer.W_p is unexpected"),
        (lambda loop: loop["gradients"].update({"quantizer.s": torch.ones(1)}), "gradients: quantizer.s has shape (1,)"),
        (lambda loop: loop["optimizee"]["param_groups"].pop(), "optimizee has other parameter groups"),
    ],
)
def test_a_checkpoint_with_other_parameters_is_refused(change, words, stopped, call_main, tally):
    command, run, state = stopped
    state = {**state, "loop": {name: dict(part) if isinstance(part, dict) else part for name, part in state["loop"].items()}}
    state["loop"]["optimizee"]["param_groups"] = list(state["loop"]["optimizee"]["param_groups"])
    change(state["loop"])
    save_tensors(state, run / "checkpoint.pth")
    outcome = call_main(*command)
    assert outcome.code == 2
    assert words in outcome.err.splitlines()[-1]
    tally("checkpoint with wrong keys or values: refused in one line")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, tiny_set):
    """A run of LSQ after an iteration: its command, folder and checkpoint."""
    from main import main

    root = tmp_path_factory.mktemp("stopped")
    where = ["-d", tiny_set, "--results-root", str(root), "--pretrained", "none"]
    command = ["train", "-m", "ResNet8", "-bs", "4", "-n", "2", "-q", "LSQ", "-meta", "STE", *where]
    assert main([*command, "--stop-after", "1"]) == 0
    run = only_run(root)
    return command, run, load_tensors(run / "checkpoint.pth", "test")


def test_the_start_is_from_the_base_model(command, call_main, base_model, tmp_path):
    """And where it stays with a learning rate of 0."""
    flags = ["-q", "LSQ", "-bw", "3", "-n", "1", "--quantizer-lr", "0", "-o", "SGD-M", "--pretrained", str(base_model)]
    assert call_main(*command("R", *flags)).code == 0
    s = load_tensors(only_run(tmp_path / "R") / "checkpoint.pth", "test")["loop"]["net"]["quantizer.s"]
    weights = torch.load(base_model, weights_only=True)
    quantized = [W for name, W in weights.items() if name.endswith("weight") and W.dim() > 1]
    torch.testing.assert_close(s, torch.stack([2 * W.abs().mean() / 3**0.5 for W in quantized]))


def test_a_base_model_has_no_parameters_of_a_quantizer(command, call_main, base_model, tmp_path, tally):
    weights = torch.load(base_model, weights_only=True)
    torch.save(weights | {"quantizer.s": torch.ones(10)}, base_model)
    outcome = call_main(*command("R", "-q", "LSQ", "--pretrained", str(base_model)))
    assert outcome.code == 2
    assert "quantizer.s is unexpected" in outcome.err
    assert not (tmp_path / "R").exists()
    tally("base model of another net, damaged or no state dict: refused")
