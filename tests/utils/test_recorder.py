"""The recorder: files, learning-rate schedule, progress line, TensorBoard."""

import copy
import hashlib
import io
import re
import sys
import time

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils.errors import BadInput
from utils.logs.layers_csv import HEADER, LayerRow
from utils.miscellaneous import AverageMeter, progress_bar
from utils.recorder import Recorder


def optimizer(lr=1e-3):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)


def rows(path):
    return [tuple(map(float, line.split(", "))) for line in path.read_text().splitlines()]


def test_files_hold_running_means_since_the_epochs_start(tmp_path):
    with Recorder(tmp_path, "Digits") as recorder:
        for _ in range(2):
            recorder.reset_performance()
            recorder.update(loss=2.0, acc=[torch.tensor(50.0), torch.tensor(90.0)], batch_size=3, cur_lr=0.1)
            recorder.update(loss=torch.tensor(4.0), acc=100.0, batch_size=1, cur_lr=0.1, end=0.0)
            recorder.update(loss=None, acc=70.0, batch_size=0, end=None, is_train=False)
        recorder.update(loss=None, acc=60.0, batch_size=0, is_train=False)
        assert recorder.get_best_test_acc() == 70.0
    assert rows(tmp_path / "loss.txt") == [(0, 2), (1, 2.5), (2, 2), (3, 2.5)]
    assert rows(tmp_path / "train-acc.txt") == [(0, 50), (1, 62.5), (2, 50), (3, 62.5)]
    assert rows(tmp_path / "lr.txt") == [(t, 0.1) for t in range(4)]
    assert rows(tmp_path / "test-acc.txt") == [(1, 70), (2, 70), (3, 60)]


def test_validation_accuracy_has_a_file_of_its_own(tmp_path):
    with Recorder(tmp_path, state={}, validation=True) as recorder:
        assert recorder.validation_result() == {}
        for test, val in ((70.0, 40.0), (72.0, 60.0), (75.0, 60.0), (74.0, 50.0)):
            recorder.update(loss=None, acc=test, batch_size=0, is_train=False, val_acc=val)
        state = recorder.state_dict()
        assert recorder.validation_result() == {"val_top1": 50.0, "best_val_top1": 60.0, "top1_at_best_val": 72.0}
    assert rows(tmp_path / "val-acc.txt") == [(1, 40), (2, 60), (3, 60), (4, 50)]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.value for event in events.Scalars("validation/accuracy")] == [40, 60, 60, 50]
    with Recorder(tmp_path, state=state, validation=True) as recorder:
        assert recorder.val_acc == [40, 60, 60, 50]
    for state_there, validation in ((state, False), ({**state, "log_sizes": dict.fromkeys(LOGS, 0)}, True)):
        with pytest.raises(BadInput, match="its checkpoint has the logs loss and train-acc and test-acc and lr"):
            Recorder(tmp_path, state=state_there, validation=validation)
    with Recorder(tmp_path / "plain") as recorder:
        recorder.update(loss=None, acc=70.0, batch_size=0, is_train=False)
        assert recorder.state_dict().keys() == state.keys() - {"val_acc"}
        assert recorder.validation_result() == {}
    assert not (tmp_path / "plain" / "val-acc.txt").exists()


def test_step_schedule(tmp_path):
    with Recorder(tmp_path) as recorder:
        alpha, gamma = optimizer(), optimizer(0.5)
        lrs = []
        for epoch in range(100):
            lrs.append(alpha.param_groups[0]["lr"])
            recorder.adjust_lr(alpha, 30, epoch)
            assert not recorder.stop
        assert lrs == pytest.approx([1e-3] * 30 + [1e-4] * 30 + [1e-5] * 30 + [1e-6] * 10)
        assert gamma.param_groups[0]["lr"] == 0.5
        recorder.adjust_lr(alpha, 30, 119, meta_optimizer=gamma)
        assert alpha.param_groups[0]["lr"] == pytest.approx(1e-7)
        assert not recorder.stop
        assert gamma.param_groups[0]["lr"] == pytest.approx(0.5e-4)


def test_the_other_schedules(tmp_path):
    alpha = optimizer()
    with Recorder(tmp_path, epochs=4) as recorder:
        for adjust, factors in (
            ("2,3", [1, 0.1, 0.01]),
            ("30", [1, 1, 1]),
            (2.0, [1, 0.1, 0.1]),
            ("cosine", [0.853553, 0.5, 0.146447]),
        ):
            for epoch, factor in enumerate(factors):
                recorder.adjust_lr(alpha, adjust, epoch)
                assert alpha.param_groups[0]["lr"] == pytest.approx(1e-3 * factor, rel=1e-5)
        for adjust in ("3,2", "linear", 0):
            with pytest.raises(ValueError, match="no schedule of the learning rate"):
                recorder.adjust_lr(alpha, adjust, 0)
    with Recorder(tmp_path) as recorder, pytest.raises(ValueError, match="needs the number of epochs"):
        recorder.adjust_lr(alpha, "cosine", 0)


def test_a_validation_accuracy_that_is_missing_is_named_before_a_row_is_written(tmp_path):
    with Recorder(tmp_path, validation=True) as recorder, pytest.raises(ValueError, match="needs val_acc"):
        recorder.update(loss=None, acc=70.0, batch_size=0, is_train=False)
    assert (tmp_path / "test-acc.txt").read_text() == ""


def test_adaptive_schedule(tmp_path):
    """A drop after 3 epochs without a new lowest training loss."""
    losses = [3, 2, 2.5, 2, 1.9, 2, 2, 2, 2, 2, 2, 1]
    expected = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    with Recorder(tmp_path) as recorder:
        alpha = optimizer()
        for epoch, (loss, drops) in enumerate(zip(losses, expected, strict=True)):
            recorder.reset_performance()
            recorder.update(loss=loss, acc=0.0, batch_size=1, cur_lr=1e-3)
            recorder.adjust_lr(alpha, "adaptive", epoch)
            assert alpha.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.1**drops)


def test_tensorboard(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorder.update(loss=2.0, acc=50.0, batch_size=1, cur_lr=0.1)
        recorder.record_gradient(gain=0.7, cosine=-0.2, meta_lr=1e-3)
        recorder.update(loss=None, acc=70.0, batch_size=0, is_train=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    values = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}
    assert values == pytest.approx(
        {
            "train/loss": 2.0,
            "train/accuracy": 50.0,
            "test/accuracy": 70.0,
            "lr/alpha": 0.1,
            "lr/gamma": 1e-3,
            "meta/scale": 0.7,
            "meta/cosine with STE": -0.2,
        }
    )


def test_the_adaptive_schedule_stops_below_1e_6(tmp_path):
    with Recorder(tmp_path) as recorder:
        parameters = [torch.zeros(1, requires_grad=True) for _ in range(3)]
        groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.0, 1e-4, 1e-5), strict=True)]  # one is frozen
        alpha = torch.optim.SGD(groups)
        found = []
        for epoch in range(10):
            recorder.reset_performance()
            recorder.update(loss=1.0, acc=0.0, batch_size=1)
            recorder.adjust_lr(alpha, "adaptive", epoch)
            found.append(recorder.stop)
        assert alpha.param_groups[1]["lr"] == pytest.approx(1e-7)
        assert found == [False] * 9 + [True]  # dropped after epochs 4, 7 and 10
        recorder.adjust_lr(alpha, 1, 20)
        assert not recorder.stop


def scalars(path):
    """Tag -> the (step, value) of its events, as TensorBoard shows them."""
    events = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def record(recorder, until, per_epoch, state_at=None):
    """Iterations up to a number of them, epochs and comparisons of gradients among them; the state after `state_at`."""
    state = None
    while recorder.iteration < until or (recorder.iteration and recorder.epoch < recorder.iteration // per_epoch):
        if recorder.epoch < recorder.iteration // per_epoch:
            recorder.update(loss=None, acc=50.0 + recorder.epoch, batch_size=0, is_train=False)
        else:
            if recorder.iteration % per_epoch == 0:
                recorder.reset_performance()
            recorder.update(loss=1.0 + recorder.iteration, acc=1.0, batch_size=1, cur_lr=0.1)
            if recorder.iteration % 7 == 0:
                recorder.record_gradient(recorder.iteration, 0.5, 1e-3)
        between = recorder.epoch < recorder.iteration // per_epoch
        if state is None and not between and recorder.iteration == state_at:
            state = copy.deepcopy(recorder.state_dict())  # a checkpoint
    return state


def test_a_resumed_runs_events_are_those_of_a_run_that_was_not_interrupted(tmp_path, monkeypatch, tally):
    """Checkpoints at ends of epochs and within them; the process dies any number of iterations later."""
    monkeypatch.setattr("utils.recorder.SUMMARY_EVERY", 3)
    random = np.random.default_rng(0)
    with Recorder(tmp_path / "whole") as recorder:
        record(recorder, 30, per_epoch=6)
    expected = scalars(tmp_path / "whole")
    assert len(expected["test/accuracy"]) == 5
    for trial, saved in enumerate([6, 12, 18, 24, 7, *random.integers(1, 25, 8).tolist()]):
        path = tmp_path / str(trial)
        with Recorder(path) as recorder:
            state = record(recorder, saved + int(random.integers(0, 6)), per_epoch=6, state_at=saved)
        (events,) = path.glob("events*")
        events.rename(path / "events.out.tfevents.0000000000")  # TensorBoard sorts by name: by the second of the start
        with Recorder(path, state=state) as recorder:
            record(recorder, 30, per_epoch=6)
        assert scalars(path) == expected, saved
        tally("run killed after a checkpoint: TensorBoard shows each value once")


LOGS = ("loss", "train-acc", "test-acc", "lr")
ROWS = [
    LayerRow(1, "conv1", 10, 0.1, 0.1, None, 0.25, 2.0, None),
    LayerRow(1, "layer1.0.conv1", 30, 0.3, 0.3, None, 0.5, 123456789.0, -0.5),
]


def test_layers_csv_has_a_row_per_layer_and_tensorboard_their_means(tmp_path):
    levels = {"last": torch.ones(40, dtype=torch.uint8)}
    with Recorder(tmp_path, state={}, layers=True) as recorder:
        recorder.update(loss=1.0, acc=50.0, batch_size=1)
        recorder.record_layers(ROWS, {"conv1": np.arange(10.0), "odd": np.array([np.nan])}, levels)
        state = recorder.state_dict()
    text = HEADER + "1,conv1,10,0.1,0.1,,0.25,2,\n1,layer1.0.conv1,30,0.3,0.3,,0.5,1.23457e+08,-0.5\n"
    assert (tmp_path / "layers.csv").read_text() == text
    assert (state["levels"], state["log_sizes"]["layers"]) == (levels, len(text))
    values = {tag: events[0][1] for tag, events in scalars(tmp_path).items() if tag.startswith("layers/")}
    assert values == pytest.approx(
        {
            "layers/flipped/all": 0.25,
            "layers/flipped/conv1": 0.1,
            "layers/flipped/layer1": 0.3,
            "layers/distance/all": 0.4375,
            "layers/distance/conv1": 0.25,
            "layers/distance/layer1": 0.5,
            "layers/cosine/all": -0.5,
            "layers/cosine/layer1": -0.5,
        }
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["histograms"] == ["W_tilde/conv1"]
    (histogram,) = events.Histograms("W_tilde/conv1")
    assert (histogram.step, histogram.histogram_value.num, histogram.histogram_value.sum) == (0, 10, 45)


def test_layers_csv_is_begun_once_and_cut_back(tmp_path):
    with Recorder(tmp_path, state={}, layers=True) as recorder:
        begun = recorder.state_dict()
        recorder.record_layers(ROWS, {}, {})
        state = recorder.state_dict()
        recorder.record_layers([row._replace(epoch=2) for row in ROWS], {}, {})
    path = tmp_path / "layers.csv"
    whole = path.read_bytes()
    with Recorder(tmp_path, layers=True):
        assert path.read_bytes() == whole
    with Recorder(tmp_path, state=state, layers=True) as recorder:
        recorder.record_layers([row._replace(epoch=2) for row in ROWS], {}, {})
    assert path.read_bytes() == whole
    with pytest.raises(BadInput, match=r"has the logs loss and train-acc and test-acc and lr and layers, and not"):
        Recorder(tmp_path, state=state)
    for earlier in (begun, {}):
        with Recorder(tmp_path, state=earlier, layers=True):
            pass
        assert path.read_text() == HEADER


def without_layers(state):
    """As the checkpoint of an earlier version has it."""
    state = copy.deepcopy(state)
    del state["levels"], state["log_sizes"]["layers"], state["log_hashes"]["layers"]
    return state


def test_an_earlier_versions_checkpoint_begins_layers_csv(tmp_path):
    with Recorder(tmp_path, state={}, layers=True) as recorder:
        recorder.update(loss=1.0, acc=50.0, batch_size=1)
        state = without_layers(recorder.state_dict())
        recorder.record_layers(ROWS, {}, {})
    for _ in range(2):
        with Recorder(tmp_path, state=state, layers=True) as recorder:
            assert (recorder.levels, recorder.iteration) == ({}, 1)
        assert (tmp_path / "layers.csv").read_text() == HEADER
        (tmp_path / "layers.csv").unlink()


CHANGES = {  # of what a log held at the checkpoint; its length stays or grows
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "a digit more": lambda data: data.replace(b"\n", b"7\n", 1),
    "two rows swapped": lambda data: b"".join(reversed(data.splitlines(keepends=True))),
    "a row in front": lambda data: b"0, 1\n" + data,
    "a byte flipped": lambda data: data[:1].replace(data[:1], bytes([data[0] ^ 1])) + data[1:],
}


FILES = {"layers": "layers.csv", **{name: f"{name}.txt" for name in (*LOGS, "val-acc")}}


def two_epochs(recorder):
    """Two iterations and a test each; a validation accuracy that is not asked for is not written."""
    for epoch in range(2):
        recorder.reset_performance()
        for loss in (3.0, 2.0):
            recorder.update(loss=loss + epoch, acc=40.0, batch_size=1, cur_lr=0.1)
        recorder.record_layers([row._replace(epoch=recorder.epoch + 1) for row in ROWS], {}, {})
        recorder.update(loss=None, acc=60.0 + epoch, batch_size=0, is_train=False, val_acc=55.0 + epoch)


def test_logs_that_have_changed_are_refused_and_stay(tmp_path, tally):
    with Recorder(tmp_path, state={}, validation=True, layers=True) as recorder:
        two_epochs(recorder)
        state = recorder.state_dict()
        recorder.update(loss=1.0, acc=50.0, batch_size=1, cur_lr=0.1)  # after the checkpoint: is cut off again
        recorder.record_layers(ROWS, {}, {})
    whole = {name: (tmp_path / file).read_bytes() for name, file in FILES.items()}
    for name, file in FILES.items():
        for case, change in CHANGES.items():
            changed = whole | {name: change(whole[name])}
            for other, data in changed.items():
                (tmp_path / FILES[other]).write_bytes(data)
            with pytest.raises(BadInput, match=f"{file} has (changed|lost rows)"):
                Recorder(tmp_path, state=state, validation=True, layers=True)
            assert {other: (tmp_path / FILES[other]).read_bytes() for other in FILES} == changed, case
            tally("log file changed before a resume: refused, nothing touched")
    for name, data in whole.items():
        (tmp_path / FILES[name]).write_bytes(data)
    for _ in range(2):  # the hashes go on through a resume
        with Recorder(tmp_path, state=state, validation=True, layers=True) as recorder:
            assert recorder.state_dict()["log_hashes"] == state["log_hashes"]
            two_epochs(recorder)
            state = recorder.state_dict()
    assert rows(tmp_path / "loss.txt")[-1][0] == 11
    found = {name: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for name, file in FILES.items()}
    assert state["log_hashes"] == found


def test_checkpoints_without_hashes_compare_lengths_and_whole_rows(tmp_path):
    with Recorder(tmp_path, state={}, layers=True) as recorder:
        two_epochs(recorder)
        state = recorder.state_dict()
    del state["log_hashes"]
    Recorder(tmp_path, state=state, layers=True).close()
    path = tmp_path / "loss.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(BadInput, match=r"loss\.txt has changed: its first 24 bytes are not those"):
        Recorder(tmp_path, state=state, layers=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_costs_less_than_a_percent_of_the_fastest_epoch(tmp_path, monkeypatch):
    """391 iterations in one second: 10 microseconds for a call that draws nothing, 1 ms for one of the ten that draw."""
    monkeypatch.setattr(sys, "stderr", Terminal())

    def seconds(calls, wait):
        """Of the quickest of some batches of calls: the least disturbed."""
        monkeypatch.setattr("utils.recorder.REDRAW_SECONDS", wait)
        batches = []
        for _ in range(20):
            begun = time.perf_counter()
            for batch in range(calls):
                recorder.print_training_result(batch, calls + 1)
            batches.append((time.perf_counter() - begun) / calls)
        return min(batches)

    with Recorder(tmp_path) as recorder:
        recorder.update(loss=1.0, acc=50.0, batch_size=1)
        skipped, drawn = seconds(100, 3600.0), seconds(10, 0.0)
    assert 391 * skipped + 10 * drawn < 0.01
    assert len(re.findall(r"epoch 1 \([\d:]+ left\): loss", sys.stderr.getvalue())) == 20 * 10


def test_progress_is_a_bar_on_a_terminal_and_plain_lines_elsewhere():
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        progress_bar(0, 2, "loss 3", 1.0, stream)
        progress_bar(1, 2, "loss 2", 2.0, stream)
    assert plain.getvalue() == "1/2 loss 3\n2/2 loss 2\n"
    assert terminal.getvalue().startswith("\r 50%|")
    assert terminal.getvalue().rstrip(" ").endswith("2/2 loss 2\n")
    assert terminal.getvalue().count("\n") == 1


def test_average_meter_weighs_by_n():
    meter = AverageMeter()
    meter.update(1.0, 3)
    meter.update(5.0)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (5.0, 2.0, 8.0, 4)
    meter.reset()
    assert (meter.avg, meter.count) == (0.0, 0)
