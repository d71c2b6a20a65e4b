"""The recorder: running means, validation accuracies, TensorBoard."""

import copy

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils import LOGS
from utils.errors import BadInput
from utils.logs.layers_csv import HEADER, LayerRow
from utils.miscellaneous import AverageMeter
from utils.recorder import Recorder


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


def test_a_validation_accuracy_that_is_missing_is_named_before_a_row_is_written(tmp_path):
    with Recorder(tmp_path, validation=True) as recorder, pytest.raises(ValueError, match="needs val_acc"):
        recorder.update(loss=None, acc=70.0, batch_size=0, is_train=False)
    assert (tmp_path / "test-acc.txt").read_text() == ""


def test_average_meter_weighs_by_n():
    meter = AverageMeter()
    meter.update(1.0, 3)
    meter.update(5.0)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (5.0, 2.0, 8.0, 4)
    meter.reset()
    assert (meter.avg, meter.count) == (0.0, 0)


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
