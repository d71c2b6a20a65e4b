"""Runs that are stopped in the middle of a schedule go on with the rates, and to the bytes, of the run that was not."""

import json

import pytest
from resumed import assert_same, only_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ALPHA, GAMMA, EPOCHS, PER_EPOCH = 0.05, 1e-3, 6, 2  # of the fixture `command`
CASES = {  # flags; iterations after which the run stops
    "warm-up and cosine": (["-ad", "cosine", "--warmup", "2", "-meta", "FC-Grad", "--meta-lr-adjust", "-o", "Adam"], (3, 7)),
    "milestones": (["-ad", "1,3,4", "-meta", "STE", "-o", "SGD-M"], (6, 7)),
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_in_the_middle_of_a_schedule_and_resumed(case, command, call_main, tmp_path, tally):
    flags, stops = CASES[case]
    assert call_main(*command("whole", *flags)).code == 0
    for stop in (*stops, 1000):
        outcome = call_main(*command("stopped", *flags, "--checkpoint-every", "3it", "--stop-after", str(stop)))
        assert outcome.code == 0, outcome.err
    assert f"resumed after {stops[-1]} iterations" in outcome.out
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    tally("--stop-after in the middle of a schedule, then without it", len(stops))


def test_every_iteration_has_the_rate_of_the_schedule_in_lr_txt_and_tensorboard(command, call_main, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.recorder.SUMMARY_EVERY", 1)
    monkeypatch.setattr("utils.run.epochs.COMPARE_EVERY", 1)
    flags = ["-ad", "cosine", "--warmup", "2", "-meta", "FC-Grad", "--meta-lr-adjust"]
    assert call_main(*command("R", *flags)).code == 0
    run = only_run(tmp_path / "R")
    schedule = [(t + 1) / 4 for t in range(4)]
    schedule += [
        0.5 * (1 + cos) for cos in (1, 0.9238795325, 0.7071067812, 0.3826834324, 0, -0.3826834324, -0.7071067812, -0.9238795325)
    ]
    rows = [tuple(map(float, row.split(", "))) for row in (run / "lr.txt").read_text().splitlines()]
    assert [t for t, _ in rows] == list(range(EPOCHS * PER_EPOCH))
    assert [alpha for _, alpha in rows] == pytest.approx([ALPHA * factor for factor in schedule], rel=1e-6)
    events = EventAccumulator(str(run)).Reload()
    assert [event.value for event in events.Scalars("lr/alpha")] == pytest.approx([ALPHA * f for f in schedule], rel=1e-6)
    assert [event.value for event in events.Scalars("lr/gamma")] == pytest.approx([GAMMA * f for f in schedule], rel=1e-6)
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert (settings["lr_adjust"], settings["warmup"]) == ("cosine", 2)


def test_pretrain_takes_the_same_schedules(call_main, tiny_set, tmp_path):
    where = ["-d", tiny_set, "--results-root", tmp_path, "-bs", "4", "-n", "4"]
    assert call_main("pretrain", "-m", "ResNet8", "-lr", "0.1", "-ad", "2,3", "--warmup", "1", *where).code == 0
    lr = [float(row.split(", ")[1]) for row in (only_run(tmp_path) / "lr.txt").read_text().splitlines()]
    assert lr == pytest.approx([0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
