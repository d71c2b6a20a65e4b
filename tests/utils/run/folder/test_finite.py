"""What is not finite is not done, not a checkpoint and not a base model; records are strict JSON."""

import copy
import json
import math

import pytest
import torch
from conftest import write_npz
from resumed import only_run
from torch import Tensor

from meta_utils.adam import Adam
from meta_utils.meta_network import MetaLSTMFC
from meta_utils.metaquantize import metaquantize
from meta_utils.training import TrainingLoop
from models_CIFAR.resnet import ResNet
from utils.errors import BadInput, RunFailed
from utils.files import strict_json
from utils.quantize import get_quantizer
from utils.recorder import Recorder
from utils.run.folder.checkpoint import Checkpoints, load_tensors
from utils.run.folder.record import fault_of_result, read_record
from utils.run.folder.run import Run
from utils.run.settings import TrainSettings
from utils.run.start.base_model import load_base_model, write_base_model
from utils.schedules import DROP, AdaptiveDrops

ODD = (math.nan, math.inf, -math.inf)


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def spoilt(value, position, odd):
    """A copy of a tensor, with one odd number in it."""
    value = value.clone(memory_format=torch.contiguous_format)
    value.view(-1)[position % value.numel()] = odd
    return value


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return metaquantize(ResNet(8))


@pytest.fixture
def loop(net):
    """A learned loop after two iterations, so that everything is there that a checkpoint holds."""
    torch.manual_seed(0)
    net, meta_net = copy.deepcopy(net), MetaLSTMFC(hidden_size=2)
    optimizers = (Adam(each.parameters(), lr=1e-3) for each in (net, meta_net))
    loop = TrainingLoop(net, next(optimizers), get_quantizer("BWN"), meta_net, next(optimizers))
    for _ in range(2):
        loop.step(torch.randn(4, 3, 8, 8), torch.arange(4))
    return loop


def test_a_base_model_with_a_value_that_is_of_no_use_is_refused_by_name(net, tmp_path, tally):
    path, weights = tmp_path / "base.pth", net.state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    cases = [(name, odd) for name, value in weights.items() if value.is_floating_point() for odd in ODD]
    cases = cases[:: len(cases) // 48] + [
        (name, odd) for name in weights if name.endswith("running_var") for odd in (-1e-9, -3.0)
    ]
    for index, (name, odd) in enumerate(cases):
        torch.save(weights | {name: spoilt(weights[name], 7 * index, odd)}, path)
        with pytest.raises(BadInput, match=r"--pretrained: .*base\.pth cannot be used: ") as refused:
            load_base_model(path, net, "--pretrained")
        assert f"{name} has " in str(refused.value)
        assert ("negative" in str(refused.value)) == math.isfinite(odd)
    torch.save(weights | {"fc.weight": torch.full((10, 64), 1e300, dtype=torch.float64)}, path)  # infinite in float32
    with pytest.raises(BadInput, match=r"fc\.weight has values that are not finite"):
        load_base_model(path, net, "--pretrained")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    tally("base model with NaN, infinite or negative values: refused by name", len(cases) + 1)


@pytest.mark.parametrize(("name", "odd"), [("conv1.weight", math.nan), ("bn1.running_var", -1.0)])
def test_no_base_model_is_written_that_could_not_be_used(name, odd, net, tmp_path):
    weights = net.state_dict()
    with pytest.raises(RunFailed, match=rf"base\.pth is not written: {name} has"):
        write_base_model(weights | {name: spoilt(weights[name], 3, odd)}, tmp_path / "base.pth")
    assert list(tmp_path.iterdir()) == []


def test_evaluate_refuses_a_base_model_of_no_use(net, tiny_set, call_main, tmp_path):
    for name, odd, words in (
        ("bn1.running_var", -1.0, "cannot be used: bn1.running_var has negative values"),
        ("fc.weight", 3e38, "the test loss is "),  # finite, but no logits come of it
    ):
        weights = net.state_dict()
        weights["fc.weight"], weights["fc.bias"] = torch.zeros(2, 64), torch.zeros(2)
        torch.save(weights | {name: torch.full_like(weights[name], odd)}, tmp_path / "base.pth")
        outcome = call_main("evaluate", tmp_path / "base.pth", "-m", "ResNet8", "-d", tiny_set)
        assert (outcome.code, outcome.out) == (2, "")
        (line,) = outcome.err.splitlines()
        assert words in line


def settings(tmp_path):
    return TrainSettings(model="ResNet8", dataset="Digits", results_root=str(tmp_path), pretrained="none")


def tensors(state, path=()):
    """The keys to each tensor with real values in a nested state."""
    if isinstance(state, Tensor):
        return [path] if state.is_floating_point() and state.numel() else []
    members = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return [found for key, member in members for found in tensors(member, (*path, key))]


def test_no_checkpoint_is_written_of_a_state_that_is_not_finite(loop, tmp_path, monkeypatch, tally):
    state = loop.state_dict()
    paths = tensors(state)
    parts = ("net", "gradients", "layers", "optimizee", "meta_net", "meta_optimizer", "meta_hidden_state_dict")
    assert {path[0] for path in paths} == set(parts)
    with Run(tmp_path / "run", settings(tmp_path), torch.device("cpu")) as run, Recorder(run.path) as recorder:
        run.save(loop, recorder)
        good = run.checkpoints.newest.read_bytes()
        chosen = [path for part in parts for path in [path for path in paths if path[0] == part][::4]]
        for index, path in enumerate(chosen):
            holder = state
            for key in path[:-1]:
                holder = holder[key]
            right = holder[path[-1]]
            holder[path[-1]] = spoilt(right, index, ODD[index % 3])
            monkeypatch.setattr(loop, "state_dict", lambda: state)
            with pytest.raises(RunFailed, match="is not finite after 2 iterations; the last good checkpoint is ") as failed:
                run.save(loop, recorder)
            assert str(failed.value).startswith(".".join(map(str, path)) + " is not finite")
            holder[path[-1]] = right
        assert run.checkpoints.newest.read_bytes() == good
        assert not run.checkpoints.previous.exists()
    assert len(chosen) >= 50
    tally("state with a number that is not finite: no checkpoint is written of it", len(chosen))


def test_a_checkpoint_that_is_not_finite_is_not_resumed(loop, tmp_path, capsys, tally):
    state = {"loop": loop.state_dict(), "result": {"loss": 1.0, "top1": 50.0}, "recorder": {"_lowest_loss": math.inf}}
    odd = [
        ("net.fc.bias is not finite", state | {"loop": state["loop"] | {"net": {"fc.bias": torch.tensor([0.0, math.nan])}}}),
        ("layers.g_W_hat is not finite", state | {"loop": state["loop"] | {"layers": {"g_W_hat": torch.tensor(math.inf)}}}),
        ("the test loss is nan", state | {"result": {"loss": math.nan, "top1": 10.0}}),
        ("the test loss is inf", state | {"result": {"loss": math.inf, "top1": 10.0}}),
    ]
    for index, (words, bad) in enumerate(odd):
        (folder := tmp_path / str(index)).mkdir()
        checkpoints = Checkpoints(folder)
        checkpoints.save(state)
        checkpoints.save(bad)
        assert checkpoints.load()["result"] == state["result"]
        assert f"warning: checkpoint: {checkpoints.newest} cannot be resumed: {words}; going on from" in capsys.readouterr().err
        checkpoints.save(bad)  # in the place of the bad one: the good one stays
        assert checkpoints.load()["result"] == state["result"]
        checkpoints.save(bad)
        checkpoints.save(bad)
        with pytest.raises(BadInput, match="no checkpoint is whole and finite: "):
            checkpoints.load()
        tally("checkpoint with a number that is not finite: the one before it is resumed, or none")


def test_a_run_whose_test_is_not_finite_is_not_done(call_main, tmp_path, tally):
    """The only training loss is finite; the update leaves weights that no test can be done with."""
    data = write_npz(tmp_path / "a.npz", train=96, test=32, classes=4)
    command = ["train", "-m", "ResNet8", "-d", data, "-meta", "STE", "--pretrained", "none", "-bs", "96", "-n", "1"]
    outcome = call_main(*command, "-q", "BWN", "-lr", "1e36", "--results-root", tmp_path / "R")
    assert outcome.code == 1
    line = outcome.err.splitlines()[-1]
    assert line.endswith("after 1 iteration, with every parameter finite; there is no checkpoint yet")
    assert "the test loss is nan" in line
    run = only_run(tmp_path / "R")
    record = strict((run / "run.json").read_text())
    assert record["state"] == "failed"
    assert "the test loss is nan" in record["error"]
    assert not list(run.glob("*.pth"))
    assert (run / "test-acc.txt").read_text() == ""
    tally("test loss that is not finite: the run has failed, without a checkpoint")
    outcome = call_main(*command, "-q", "BWN", "-lr", "1e36", "--results-root", tmp_path / "R", "--checkpoint-every", "1it")
    assert outcome.code == 1
    line = outcome.err.splitlines()[-1]
    assert line.endswith(f"{run / 'checkpoint.pth'} has this state")  # the parameters are finite, and it is not called good
    assert "good" not in line


def test_a_run_that_an_earlier_version_called_done_has_failed(tmp_path):
    record = {"settings": {}, "state": "done", "result": {"loss": math.nan, "top1": 10.0}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    read = read_record(tmp_path)
    assert (read["state"], read["error"]) == ("failed", "the test loss is nan")
    assert [fault_of_result(known) for known in (None, {}, {"loss": 1.0, "top1": 10}, {"loss": 1.0, "top5": math.inf})] == [
        None,
        None,
        None,
        "the test top5 is inf",
    ]


def test_json_is_strict():
    odd = {"a": [1, 2.5, math.nan, (math.inf, None)], "b": {"c": -math.inf, "d": True}}
    assert strict(strict_json.dumps(odd)) == {"a": [1, 2.5, "nan", ["inf", None]], "b": {"c": "-inf", "d": True}}
    assert strict_json.dumps({"a": 1}, indent=1) == json.dumps({"a": 1}, indent=1)


def test_a_run_says_why_it_ends_early(call_main, tmp_path, tiny_set, monkeypatch):
    """Adaptive: with a loss that never falls alpha drops after epoch 4, from 5e-6 to 5e-7; another schedule runs to the end."""
    command = ["train", "-m", "ResNet8", "-d", tiny_set, "-meta", "STE", "--pretrained", "none", "-bs", "8", "-lr", "5e-6"]
    whole = call_main(*command, "-n", "3", "-ad", "1", "--results-root", tmp_path / "whole")
    assert whole.code == 0
    record = strict((only_run(tmp_path / "whole") / "run.json").read_text())
    assert (record["state"], record["epochs_done"]) == ("done", 3)
    assert "ended_early" not in record
    factors = iter((1.0, DROP))
    monkeypatch.setattr(AdaptiveDrops, "after_epoch", lambda self, loss: next(factors))
    command += ["-n", "8", "-ad", "adaptive", "--results-root", str(tmp_path / "early")]
    early = call_main(*command)
    assert early.code == 0
    why = "alpha fell below 1e-06 (--lr-adjust adaptive)"
    assert f"ended after 2 of 8 epochs: {why}" in early.out
    run = only_run(tmp_path / "early")
    record = strict((run / "run.json").read_text())
    assert (record["state"], record["epochs_done"], record["ended_early"]) == ("done", 2, why)
    assert len((run / "test-acc.txt").read_text().splitlines()) == 2
    assert load_tensors(run / "checkpoint.pth", "test")["loop"]["iteration"] == 2
    again = call_main(*command)
    assert again.code == 0
    assert f"is done after 2 of 8 epochs: {why}: test accuracy " in again.out
