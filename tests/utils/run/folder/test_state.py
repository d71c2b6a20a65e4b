"""Checkpoints of another form than this version's: each is one line, and the checkpoint as it was written goes on."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from conftest import write_npz

from main import main
from utils.dataset import get_dataloader
from utils.errors import BadInput
from utils.run.build import build_loop
from utils.run.evaluation import Trained
from utils.run.folder.checkpoint import Checkpoints, load_tensors, save_tensors
from utils.run.folder.record import read_record
from utils.run.folder.run import Run
from utils.run.folder.state import find_problem, load_state
from utils.run.identity import Identity
from utils.run.settings import TrainSettings

WRONG = "checkpoint with wrong keys or values: refused in one line"
PARTS = ("loop", "recorder", "random")
MAY_LACK = ("data_digest", "base_model", "program", "log_hashes", "levels", "layers")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run with LSTMFC, stopped after three iterations: its folder, settings, training loader, and checkpoint's content."""
    root = tmp_path_factory.mktemp("stopped")
    data = write_npz(root / "set.npz")
    command = ["train", "-m", "ResNet8", "-d", data, "-meta", "LSTMFC", "-hidden", "3", "-o", "Adam", "-bs", "4", "-n", "2"]
    assert main([*command, "--pretrained", "none", "--stop-after", "3", "--results-root", str(root / "R")]) == 0
    (record,) = root.rglob("run.json")
    settings = TrainSettings.from_record(read_record(record.parent)["settings"])
    loader = get_dataloader(data, "train", 4)
    return record.parent, settings, loader, load_tensors(record.parent / "checkpoint.pth", "test")


def resume(stopped, state):
    """What Run.resume does with a checkpoint's content, on a loop that has not begun; returns the loop."""
    folder, settings, loader, _ = stopped
    newest = SimpleNamespace(load=lambda: state, newest=folder / "checkpoint.pth")
    loop = build_loop(settings, loader, torch.device("cpu"))
    run = SimpleNamespace(_checkpoint=load_state(newest), path=folder, record={}, write=lambda **changes: None)
    Run.resume(run, loop)
    return loop


def changed(state, place, value=None, remove=False):
    """A copy of a checkpoint's content with another value at a place, a tuple of keys; or without it."""
    state = deepcopy(state)
    holder = state
    for key in place[:-1]:
        holder = holder[key]
    if remove:
        del holder[place[-1]]
    else:
        holder[place[-1]] = value(holder.get(place[-1])) if callable(value) else value
    return state


def refused(stopped, state, tally):
    with pytest.raises(BadInput) as error:
        resume(stopped, state)
    (line,) = str(error.value).splitlines()
    assert str(stopped[0]) in line
    assert len(line) < 1000
    tally(WRONG)
    return line


def places(state):
    """Every key of the first two levels, and of the log files' sizes."""
    yield from ((part,) for part in state)
    yield from ((part, name) for part in PARTS for name in state[part])
    yield from (("recorder", "log_sizes", name) for name in state["recorder"]["log_sizes"])


def test_a_checkpoint_goes_on_as_it_was_written(stopped, capsys):
    loop = resume(stopped, stopped[3])
    assert loop.iteration == 3
    loop.step(*next(iter(stopped[2])))
    assert "resumed after 3 iterations" in capsys.readouterr().out


def test_parts_that_were_read_by_earlier_versions_alone_do_not_matter(stopped):
    state = changed(stopped[3], ("recorder", "epoch"), 1)
    assert resume(stopped, changed(state, ("recorder", "batches"), 3)).iteration == 3


def test_digests_may_be_there_and_may_lack(stopped, tally):
    for place, digest in ((("data_digest",), "0af3"), (("base_model",), None), (("recorder", "log_hashes"), {"loss": "0af3"})):
        state = changed(stopped[3], place, digest)
        assert find_problem(state) is find_problem(changed(state, place, remove=True)) is None
        assert place[-1] in refused(stopped, changed(stopped[3], place, 7), tally)


def test_validation_is_in_both_places_or_in_none(stopped, tally):
    validated = changed(changed(stopped[3], ("recorder", "val_acc"), [50.0]), ("recorder", "log_sizes", "val-acc"), 6)
    assert find_problem(validated) is None
    for state in (
        changed(validated, ("recorder", "val_acc"), remove=True),
        changed(validated, ("recorder", "log_sizes", "val-acc"), remove=True),
        changed(validated, ("recorder", "val_acc"), []),
    ):
        assert "recorder.val_acc and log_sizes.val-acc do not fit" in refused(stopped, state, tally)
    assert "recorder.val_acc is not a list of numbers" in refused(
        stopped, changed(validated, ("recorder", "val_acc"), ["high"]), tally
    )


def test_a_checkpoint_may_know_nothing_of_layers_csv(stopped):
    state = changed(changed(stopped[3], ("recorder", "levels"), remove=True), ("recorder", "log_sizes", "layers"), remove=True)
    assert resume(stopped, state).iteration == 3
    for levels in ({}, {"last": stopped[3]["recorder"]["levels"]["last"]}):
        assert resume(stopped, changed(stopped[3], ("recorder", "levels"), levels)).iteration == 3


def test_a_checkpoint_that_lacks_something_is_refused(stopped, tally):
    for place in filter(lambda place: place[-1] not in MAY_LACK, places(stopped[3])):
        line = refused(stopped, changed(stopped[3], place, remove=True), tally)
        assert f"it lacks {'.'.join(place)}" in line


def test_a_checkpoint_with_something_unknown_is_refused(stopped, tally):
    for holder in [(), *((part,) for part in PARTS), ("recorder", "log_sizes")]:
        for name in ("warmup", 3):
            line = refused(stopped, changed(stopped[3], (*holder, name), 0), tally)
            assert f"{'.'.join((*holder, str(name)))} is unknown" in line


@pytest.mark.parametrize("wrong", ["text", -1.5, [torch.ones(1)]], ids=["a text", "a number", "a list"])
def test_a_checkpoint_with_a_value_of_another_type_is_refused(wrong, stopped, tally):
    numbers = {("recorder", name) for name in ("_lowest_loss", "elapsed")}
    for place in places(stopped[3]):
        if (wrong != -1.5 or place not in numbers) and place[-1] not in MAY_LACK:
            assert place[-1] in refused(stopped, changed(stopped[3], place, wrong), tally)


LEVEL = torch.zeros(76_848, dtype=torch.uint8)  # of the weights of ResNet8 for two classes
ADAM = ("loop", "optimizee", "state", 0)
GROUP = ("loop", "optimizee", "param_groups")
OTHER = {  # place, value there, words; without a value: what is there is gone
    "a weight less": (("loop", "net", "fc.weight"), None, "net: fc.weight is missing"),
    "a weight more": (("loop", "net", "fc2.weight"), torch.ones(2), "net: fc2.weight is unexpected"),
    "of more classes": (("loop", "net", "fc.weight"), torch.ones(5, 64), "net: fc.weight has shape (5, 64), not (2, 64)"),
    "in float16": (("loop", "net", "fc.weight"), torch.ones(2, 64).half(), "net: fc.weight is torch.float16"),
    "whole numbers": (("loop", "net", "fc.weight"), torch.ones(2, 64).int(), "net: fc.weight is int32, not float32"),
    "sparse": (("loop", "net", "fc.weight"), torch.ones(2, 64).to_sparse(), "loop.net is not tensors by name"),
    "a gradient of another shape": (("loop", "gradients", "fc.weight"), torch.ones(64, 2), "gradients: fc.weight has shape"),
    "a gradient of nothing": (("loop", "gradients", "fc2.weight"), torch.ones(2), "gradients: fc2.weight is unexpected"),
    "fewer coordinates": (("loop", "layers", "W_tilde"), torch.ones(7), "layers: W_tilde has shape (7,)"),
    "no W_tilde": (("loop", "layers", "W_tilde"), None, "layers: W_tilde is missing"),
    "another symbol": (("loop", "layers", "W"), torch.ones(7), "layers: W is unexpected"),
    "levels of fewer weights": (("recorder", "levels", "last"), torch.ones(7).byte(), "levels: last has shape (7,), not"),
    "levels that are no bytes": (("recorder", "levels", "start"), LEVEL.float(), "levels: start is torch.float32, not"),
    "levels of another time": (("recorder", "levels", "next"), LEVEL, "levels: next is unexpected"),
    "levels in words": (("recorder", "levels", "start"), "low", "recorder.levels is not tensors by name"),
    "a size in words": (("recorder", "log_sizes", "layers"), "large", "recorder.log_sizes.layers is not a whole number"),
    "phi of another size": (("loop", "meta_net", "fc.weight"), torch.ones(1, 9), "meta_net: fc.weight has shape (1, 9)"),
    "phi of another M": (("loop", "meta_net"), {"fc.maps.0.weight": torch.ones(3, 1)}, "meta_net: lstm.weight_ih_l0 is missing"),
    "no phi": (("loop", "meta_net"), {}, "meta_net: lstm.weight_ih_l0 is missing"),
    "M's state of another size": (("loop", "meta_hidden_state_dict", "h"), torch.ones(1, 4, 3), "h has shape (1, 4, 3)"),
    "half of M's state": (("loop", "meta_hidden_state_dict", "c"), None, "meta_hidden_state_dict: c is missing"),
    "no optimizer": (("loop", "optimizee"), {}, "optimizee should be there"),
    "no optimizer of M": (("loop", "meta_optimizer"), {}, "meta_optimizer should be there"),
    "half an optimizer": (("loop", "meta_optimizer", "state"), None, "loop.meta_optimizer is not an optimizer's state"),
    "no groups": (GROUP, [], "optimizee has other parameter groups"),
    "groups by name": (GROUP, {}, "optimizee has other parameter groups"),
    "a group that is none": (GROUP, [3], "optimizee has a parameter group with other names"),
    "fewer parameters": ((*GROUP, 0, "params"), [0, 1], "optimizee has a parameter group with another kind of params"),
    "SGD's group": (GROUP, [{"lr": 1, "momentum": 0, "params": []}], "optimizee has a parameter group with other names"),
    "no learning rate": ((*GROUP, 0, "lr"), None, "optimizee has a parameter group with other names"),
    "a learning rate in words": ((*GROUP, 0, "lr"), "high", "optimizee has a parameter group with another kind of lr"),
    "a switch that is a number": ((*GROUP, 0, "amsgrad"), 1, "optimizee has a parameter group with another kind of amsgrad"),
    "one beta": ((*GROUP, 0, "betas"), (0.9,), "optimizee has a parameter group with another kind of betas"),
    "a moment less": ((*ADAM, "exp_avg"), None, "optimizee has for parameter 0 other values than step, exp_avg, exp_avg_sq"),
    "a moment of another shape": ((*ADAM, "exp_avg"), torch.ones(3), "optimizee has for parameter 0 another kind of exp_avg"),
    "steps in words": ((*ADAM, "step"), "three", "optimizee has for parameter 0 another kind of step"),
    "SGD's momentum": (ADAM, {"momentum_buffer": torch.ones(16, 3, 3, 3)}, "optimizee has for parameter 0 other values than"),
    "a state that is none": (ADAM, [], "optimizee has for parameter 0 other values than"),
    "a state of nothing": ((*ADAM[:-1], 999), {}, "optimizee has a state of other parameters"),
    "other iterations": (("loop", "iteration"), 7, "recorder.iteration is 3, and loop.iteration 7"),
    "negative iterations": (("loop", "iteration"), -1, "loop.iteration is not a whole number"),
    "iterations as true": (("recorder", "_drops"), True, "recorder._drops is not a whole number"),
    "an epoch less": (("recorder", "test_acc"), [], "are not of one length"),
    "a loss in words": (("recorder", "epoch_losses"), ["low"], "recorder.epoch_losses is not a list of numbers"),
    "one meter": (("recorder", "meters"), [(1.0, 2)], "recorder.meters is not two pairs"),
    "meters of one number": (("recorder", "meters"), [(1.0,), (1.0,)], "recorder.meters is not two pairs"),
    "a result in words": (("result", "top1"), "good", "result is not numbers by name"),
    "Python's generator": (("random", "python"), (9, (), None), "is not of this run"),
    "Python's numbers": (("random", "python"), (3, ("x",) * 625, None), "is not of this run"),
    "NumPy's generator": (("random", "numpy"), ("PCG64", torch.ones(624), 0, 0, 0.0), "is not of this run"),
    "NumPy's numbers": (("random", "numpy"), ("MT19937", [1, 2], 0, 0, 0.0), "is not of this run"),
    "torch's generator": (("random", "torch"), torch.ones(9, dtype=torch.uint8), "is not of this run"),
}


@pytest.mark.parametrize("case", OTHER)
def test_a_checkpoint_that_is_not_of_this_run_is_refused(case, stopped, tally):
    place, value, words = OTHER[case]
    assert words in refused(stopped, changed(stopped[3], place, value, remove=value is None), tally)


@pytest.mark.parametrize("content", [None, [], "text", torch.ones(1), {}, {"net": {}}], ids=repr)
def test_a_checkpoint_of_something_else_is_refused(content, stopped, tmp_path, tally):
    """In evaluate as in resume."""
    if content is not None:
        refused(stopped, content, tally)
    save_tensors(content, tmp_path / "checkpoint.pth")
    net = build_loop(stopped[1], stopped[2], torch.device("cpu")).net
    with pytest.raises(BadInput, match="checkpoint"):
        Trained(tmp_path, "ResNet8", "Digits", made_of=Identity.of_record(stopped[3])).load_into(net)
    tally(WRONG)


def test_evaluate_refuses_a_checkpoint_of_another_net(stopped, tmp_path, tally):
    Checkpoints(tmp_path).save(changed(stopped[3], ("loop", "net", "fc.weight"), torch.ones(5, 64)))
    net = build_loop(stopped[1], stopped[2], torch.device("cpu")).net
    with pytest.raises(BadInput, match=r"not of ResNet8 for Digits: fc.weight has shape \(5, 64\), not \(2, 64\)"):
        Trained(tmp_path, "ResNet8", "Digits", made_of=Identity.of_record(stopped[3])).load_into(net)
    tally(WRONG)
