"""The time left in an epoch and in a run, and the line that shows it."""

import copy
import io
import re
import sys
import time

import pytest

from utils.logs.progress import duration, seconds_per_epoch, time_left
from utils.miscellaneous import progress_bar
from utils.recorder import Recorder


@pytest.mark.parametrize(
    ("done", "elapsed", "seconds", "epochs", "left"),
    [
        (4, 2.0, [], 3, (3.0, 3.0 + 2 * 5.0)),  # the first epoch's own pace: half a second for each of 10 iterations
        (10, 5.0, [], 1, (0.0, 0.0)),
        (4, 2.0, [], None, (3.0, None)),
        (4, 2.0, [6.0, 6.0], 5, (4.0, 4.0 + 2 * 6.0)),  # 10 iterations take 5 s, and the test 1 s
        (10, 5.0, [6.0, 6.0], 3, (1.0, 1.0)),  # the last epoch's test
        (4, 8.0, [6.0, 6.0], 5, (12.0, 12.0 + 2 * 6.0)),  # slower than the epochs before it
        (10, 7.0, [6.0, 6.0], 3, (0.0, 0.0)),
        (5, 2.5, [99.0, 6.0, 60.0, 6.0], 6, (3.5, 3.5 + 6.0)),  # the first and the third were disturbed
        (5, 2.5, [6.0] * 6, 4, (3.5, 3.5)),  # a run of fewer epochs than it has had
    ],
)
def test_time_left(done, elapsed, seconds, epochs, left):
    found = time_left(done, 10, elapsed, seconds, epochs)
    assert found.epoch == pytest.approx(left[0])
    assert found.run == (None if left[1] is None else pytest.approx(left[1]))


def test_the_time_of_an_epoch_is_a_median_of_the_last_ones():
    assert seconds_per_epoch([]) is None
    assert seconds_per_epoch([8.0]) == 8.0
    assert seconds_per_epoch([99.0, 1.0, 50.0, 2.0]) == 2.0
    assert (duration(90), duration(7500.4)) == ("01:30", "2:05:00")


def shown(pattern, text):
    """The numbers of a text."""
    return [int(group) for group in re.fullmatch(pattern, text).groups()]


def test_a_resumed_run_knows_the_time_left(tmp_path, capsys, monkeypatch):
    """Between two epochs, and in the middle of one: its time before the interruption counts."""
    states = {}
    with Recorder(tmp_path, state={}, epochs=5) as recorder:
        for epoch in range(3):
            recorder.reset_performance()
            for iteration in range(4):
                if (epoch, iteration) == (2, 2):
                    states["in the middle"] = copy.deepcopy(recorder.state_dict()) | {
                        "seconds_per_epoch": [9.0, 10.0],
                        "elapsed": 4.5,
                    }
                recorder.update(loss=1.0, acc=50.0, batch_size=1, cur_lr=0.1)
            recorder.update(loss=None, acc=50.0, batch_size=0, is_train=False)
        assert recorder.state_dict()["elapsed"] < 1  # of the next epoch
        states["between"] = recorder.state_dict() | {"seconds_per_epoch": [9.0, 10.0, 11.0], "elapsed": 0.0}
    with Recorder(tmp_path, state=states["between"], epochs=5) as recorder:
        (left,) = shown(r"10\.0 s per epoch, 00:(\d\d) left", recorder.pace())
        assert 15 <= left < 20  # some of which are over
    with Recorder(tmp_path, state=states["in the middle"], epochs=5) as recorder:
        (left,) = shown(r"9\.5 s per epoch, 00:(\d\d) left", recorder.pace())
        assert 20 <= left < 3 * 9.5 - 4.5
        monkeypatch.setattr("utils.recorder.PLAIN_LINE_SECONDS", 0.0)
        recorder.print_training_result(1, 4)
    line = r"2/4 epoch 3/5 \(00:(\d\d) left, run 00:(\d\d)\): loss 1\.0000, train 50\.00 %\n"
    of_epoch, of_run = shown(line, capsys.readouterr().err)
    assert 4 <= of_epoch < 8  # two of four iterations take as long as the first two, at least
    assert of_run - of_epoch in (19, 20)


def test_without_a_number_of_epochs_no_time_of_a_run_is_promised(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.recorder.PLAIN_LINE_SECONDS", 0.0)
    monkeypatch.setattr("sys.stderr", stream := io.StringIO())
    with Recorder(tmp_path) as recorder:
        assert recorder.pace() == ""
        recorder.print_training_result(0, 4)
        recorder.update(loss=None, acc=50.0, batch_size=0, is_train=False)
        assert re.fullmatch(r"[\d.]+ s per epoch", recorder.pace())
    assert re.fullmatch(r"1/4 epoch 1 \(00:\d\d left\)\n", stream.getvalue())


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
