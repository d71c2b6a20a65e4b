"""Runs that are killed or stopped go on to the very bytes of the run that was not; what may differ when a run goes on."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import until, write_npz
from resumed import assert_same, only_run, outcome, record_of, without_checkpoints

from utils.run.folder.checkpoint import Checkpoints, checksum_holds

CASES = [
    ["-meta", "MultiFC", "-o", "SGD-M"],
    ["-meta", "MultiFC", "-o", "Adam", "--checkpoint-every", "1it"],
    ["-meta", "LSTMFC", "-hidden", "4", "-o", "SGD-M", "--checkpoint-every", "1it"],
    ["-meta", "LSTMFC", "-hidden", "4", "-o", "Adam"],
    ["-meta", "STE", "-o", "SGD-M", "--checkpoint-every", "3it"],
    ["-meta", "STE", "-o", "Adam", "--update-order", "notebook"],
    ["-meta", "FC-Grad", "-o", "SGD", "--update-order", "paper", "--checkpoint-every", "1it", "-q", "BWN"],
]
LARGER = ["-m", "ResNet20"]  # for a run that must not be over before it is stopped


@pytest.mark.parametrize("flags", CASES, ids=" ".join)
def test_killed_at_any_moment_and_resumed(flags, server, command, tmp_path, tally):
    server.start(command("whole", *flags), tmp_path / "log")
    begun = time.monotonic()
    assert server.wait() == 0, (tmp_path / "log").read_text()
    duration = time.monotonic() - begun
    moments = random.Random(" ".join(flags))
    kills = 0
    while kills < 4:
        if kills == 3:  # and once more from the start, after a checkpoint
            shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        server.start(command("killed", *flags), tmp_path / "log")
        if kills == 3:
            until(lambda: list((tmp_path / "killed").rglob("checkpoint.pth")) or not running(server.pid))
        time.sleep(duration * moments.uniform(0.0, 0.2) if kills == 3 else duration * moments.uniform(0.05, 0.7))
        status = server.kill()
        assert status in (-signal.SIGKILL, 0)
        if status == 0:  # it had finished: begin anew, and be quicker
            shutil.rmtree(tmp_path / "killed")
            duration *= 0.8
        kills += status != 0
    server.start(command("killed", *flags), tmp_path / "last-log")
    assert server.wait() == 0, (tmp_path / "last-log").read_text()
    assert re.search("resumed after [1-9]", (tmp_path / "last-log").read_text())
    assert_same(tmp_path / "killed", tmp_path / "whole")
    tally("SIGKILL at a random moment, then resumed", kills)


def test_killed_while_a_checkpoint_is_written(server, command, tmp_path, tally):
    """At every moment of the first checkpoint and of one that replaces another, each time from what the last kill left."""
    flags = ["-meta", "LSTMFC", "-hidden", "16", "--checkpoint-every", "1it"]
    server.start(command("whole", *flags), tmp_path / "log")
    assert server.wait() == 0
    log = tmp_path / "killed-log"
    kills = range(1, 9)
    for moment in kills:
        server.start(command("killed", *flags), log, moment=moment)
        assert server.wait() == -signal.SIGKILL
    new, old = "checkpoint.pth.tmp", "checkpoint.pth"
    first = [f"in the middle of {new}", f"before fsync of {new}", f"before the rename of {new}"]
    renames = [f"before the rename of {old}", f"before the rename of {new}"]
    killed = [line.removeprefix("killed ") for line in log.read_text().splitlines() if line.startswith("killed ")]
    assert killed == [*first, *first[:1], *first[:2], *renames]
    assert not (only_run(tmp_path / "killed") / old).exists()
    server.start(command("killed", *flags), log)
    assert server.wait() == 0
    assert len(re.findall("resumed after [1-9]", log.read_text())) == 5
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    tally("SIGKILL while a checkpoint is written, then resumed", len(kills))


@pytest.mark.parametrize(
    ("every", "iterations"), [(None, [2, 4, 6, 8, 10, 12]), ("4", [8, 12]), ("5it", [5, 10, 12])], ids=["default", "4", "5it"]
)
def test_how_often_a_checkpoint_is_written(every, iterations, command, call_main, monkeypatch):
    written, save = [], Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, state: (written.append(state["loop"]["iteration"]), save(self, state)))
    assert call_main(*command("whole", *(["--checkpoint-every", every] if every else []))).code == 0
    assert written == iterations


def running(pid):
    """Whether the process has not ended yet (a zombie has)."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize(("which", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_ends_the_run(which, code, server, command, tmp_path, tally):
    flags = ["--checkpoint-every", "100", *LARGER]  # no checkpoint but the signal's
    server.start(command("whole", *flags), tmp_path / "log")
    assert server.wait() == 0
    server.start(command("stopped", *flags), tmp_path / "log")
    until(lambda: [path for path in (tmp_path / "stopped").rglob("loss.txt") if path.stat().st_size])  # an epoch of six is over
    begun = time.monotonic()
    assert server.kill(which) == code
    assert time.monotonic() - begun < 30
    assert f"stopped by {which.name}; rerun the same command to resume" in (tmp_path / "log").read_text()
    run = only_run(tmp_path / "stopped")
    assert record_of(run)["state"] == "running"
    assert checksum_holds(run / "checkpoint.pth")
    server.start(command("stopped", *flags), tmp_path / "log")
    assert server.wait() == 0
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    tally(f"{which.name}, then resumed")


@pytest.mark.parametrize("iterations", [3, 4])  # within an epoch of two, and at its end, before its evaluation
def test_stop_after_so_many_iterations_and_go_on(iterations, server, command, tmp_path, tally):
    server.start(command("whole"), tmp_path / "log")
    assert server.wait() == 0
    for log in (tmp_path / "first", tmp_path / "second"):  # the second time there is nothing to do
        server.start(command("stopped", "--stop-after", str(iterations)), log)
        assert server.wait() == 0
        run = only_run(tmp_path / "stopped")
        assert f"{run} stopped after {iterations} iterations" in log.read_text()
        assert (f"resumed after {iterations} iterations" in log.read_text()) == (log.name == "second")
        assert len((run / "loss.txt").read_text().splitlines()) == iterations
        assert record_of(run)["state"] == "running"
    server.start(command("stopped"), tmp_path / "log")
    assert server.wait() == 0
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    tally("--stop-after, then without it")


def test_a_signal_during_evaluation_keeps_the_epochs_training(server, tmp_path, tally):
    data = write_npz(tmp_path / "long_test.npz", train=4, test=500)  # five batches

    def command(root):
        where = ["--results-root", str(tmp_path / root), "--pretrained", "none", "--checkpoint-every", "100"]
        return ["train", "-m", "ResNet8", "-d", data, "-bs", "4", "-n", "2", "-lr", "0.05", *where]

    server.start(command("whole"), tmp_path / "log")
    assert server.wait() == 0
    server.start(command("stopped"), tmp_path / "log", test_batch=3)
    assert server.wait() == 143
    run = only_run(tmp_path / "stopped")
    assert len((run / "loss.txt").read_text().splitlines()) == 1
    assert (run / "test-acc.txt").read_text() == ""
    server.start(command("stopped"), tmp_path / "log")
    assert server.wait() == 0
    assert outcome(tmp_path / "stopped")[0] == outcome(tmp_path / "whole")[0]
    tally("SIGTERM during evaluation, then resumed")


def test_two_processes_cannot_share_a_run(server, command, call_main, tmp_path, tally):
    server.start(command("shared", *LARGER), tmp_path / "log")
    until(lambda: list((tmp_path / "shared").rglob("loss.txt")))
    os.kill(server.pid, signal.SIGSTOP)  # so that it does not end meanwhile
    run = only_run(tmp_path / "shared")
    refused = [call_main(*command("shared", *LARGER)), call_main(*command("shared", *LARGER, "--overwrite"))]
    assert server.kill() == -signal.SIGKILL
    for result in refused:
        assert result.code == 75
        assert f"{run} is in use by process {server.pid} on " in result.err.splitlines()[-1]
    result = call_main(*command("shared", *LARGER))
    assert result.code == 0, result.err
    assert f"note: process {server.pid} on " in result.err
    assert "taking over" in result.err
    tally("second process on a run's folder: refused", len(refused))


def test_a_done_run_says_so_and_other_settings_are_refused(command, call_main, tmp_path):
    first = call_main(*command("again"))
    assert first.code == 0, first.err
    run = only_run(tmp_path / "again")
    files = {path: path.read_bytes() for path in run.iterdir()}
    second = call_main(*command("again"))
    assert second.code == 0
    best = record_of(run)["result"]["best_top1"]
    assert second.out.startswith(f"{run} is done: test accuracy ")
    assert f"(best {best:.2f} %)" in second.out
    other = call_main(*command("again", "-lr", "0.1", "--seed", "3"))
    assert other.code == 2
    assert "init_lr 0.05 there and 0.1 here, seed 0 there and 3 here" in other.err
    assert {path: path.read_bytes() for path in run.iterdir()} == files
    elsewhere = call_main(*command("again", "--workers", "1", "--data-root", str(tmp_path), "--checkpoint-every", "5it"))
    assert elsewhere.code == 0  # where and how often, not what
    assert elsewhere.out == second.out


def test_a_run_goes_on_where_its_folder_was_moved_to_and_on_another_device(half, command, call_main, tmp_path):
    run = half("begun")
    record = record_of(run)
    memory = {"cpu_rss": 2**60, "cuda": 5}
    begun_on = {"device": "cuda:0: a GPU", "settings": record["settings"] | {"device": "cuda"}, "peak_memory": memory}
    (run / "run.json").write_text(json.dumps(record | begun_on))
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "begun").rename(tmp_path / "elsewhere" / "moved")
    result = call_main(*command("elsewhere/moved", "--device", "cpu"))
    assert result.code == 0, result.err
    assert "was on cuda:0: a GPU before; now cpu: " in result.err
    record = json.loads((only_run(moved) / "run.json").read_text())
    assert record["state"] == "done"
    assert len(record["sessions"]) == 2
    assert {session["device"] for session in record["sessions"]} == {record["device"]}
    assert record["peak_memory"] == memory  # the most of all sessions


def test_a_folder_that_cannot_be_locked_is_one_line(half, command, call_main):
    lock = half("locked") / "run.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    result = call_main(*command("locked"))
    assert result.code == 2
    assert "cannot be worked on" in result.err.splitlines()[-1]


def test_overwrite_moves_the_old_run_aside(command, call_main, tmp_path):
    assert call_main(*command("again", "-n", "1")).code == 0
    run = only_run(tmp_path / "again")
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    result = call_main(*command("again", "-n", "2", "--overwrite"))
    assert result.code == 0, result.err
    (old,) = (run.parent / "replaced").iterdir()
    assert {path.name: path.read_bytes() for path in old.iterdir()} == files
    assert f"moved the old run to {old}" in result.out
    assert record_of(run)["settings"]["epochs"] == 2
    table = call_main("report", tmp_path / "again").out
    assert table.count("| dorefa SGD MultiFC (batch_size 4, from scratch, init_lr 0.05, lr_adjust 2) |") == 1


def test_pretrain_resumes_and_says_when_it_is_done(server, call_main, tiny_set, tmp_path):
    def pretrain(root, *flags):
        where = ["-d", tiny_set, "--results-root", str(tmp_path / root)]
        return ["pretrain", *LARGER, "-n", "6", "-bs", "4", "--checkpoint-every", "1it", *where, *flags]

    assert call_main(*pretrain("whole")).code == 0
    server.start(pretrain("killed"), tmp_path / "log")
    until(lambda: list((tmp_path / "killed").rglob("checkpoint-previous.pth")))
    assert server.kill() == -signal.SIGKILL
    assert call_main(*pretrain("killed")).code == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")
    (base,) = (tmp_path / "killed").rglob("*-pretrain.pth")
    assert " is done: " in call_main(*pretrain("killed")).out
    made = base.read_bytes()
    base.unlink()
    assert f"wrote {base}" in call_main(*pretrain("killed")).out  # from the checkpoint
    assert base.read_bytes() == made
    shutil.rmtree(base.parent / "pretrain-trial-1")
    result = call_main(*pretrain("killed"))
    assert result.code == 2
    assert f"{base} exists already: --overwrite" in result.err
    assert call_main(*pretrain("killed", "--overwrite")).code == 0


def test_a_session_begins_without_what_the_one_before_recorded_of_its_end(half, command, call_main):
    run = half("R")
    record = record_of(run)
    assert "stopped after 5 iterations" in record["error"]
    ends = {"ended": "2026", "eager_because": "capture failed"}
    (run / "run.json").write_text(json.dumps(record | ends))
    assert call_main(*command("R", "--checkpoint-every", "1it", "--stop-after", "7")).code == 0
    record = record_of(run)
    assert not ends.keys() & record.keys()
    assert "stopped after 7 iterations" in record["error"]


def test_a_finished_runs_earlier_checkpoint_is_not_taken_for_its_end(command, call_main, tmp_path):
    assert call_main(*command("R", "-meta", "STE")).code == 0
    run = only_run(tmp_path / "R")
    (run / "checkpoint.pth").unlink()
    for words in (["evaluate", run], ["export", run, tmp_path / "net.safetensors"], [*command("next"), "--pretrained", run]):
        outcome = call_main(*words)
        assert outcome.code == 2
        assert f"warning: checkpoint: {run / 'checkpoint.pth'} is not there; going on from" in outcome.err
        assert (
            "is done after 12 iterations, and its last whole checkpoint is of 10: put its own checkpoint.pth back" in outcome.err
        )


def test_a_base_model_is_not_written_again_from_an_earlier_checkpoint(call_main, tiny_set, tmp_path):
    pretrain = ["pretrain", "-m", "ResNet8", "-d", tiny_set, "-bs", "4", "-n", "2", "--results-root", str(tmp_path / "R")]
    assert call_main(*pretrain).code == 0
    run = only_run(tmp_path / "R")
    (base,) = (tmp_path / "R").rglob("*-pretrain.pth")
    base.unlink()
    (run / "checkpoint.pth").unlink()
    outcome = call_main(*pretrain)
    assert (outcome.code, base.exists()) == (2, False)
    assert "is done after 4 iterations, and its last whole checkpoint is of 2" in outcome.err


def test_pretraining_that_ended_early_goes_on_after_its_base_model_was_written(call_main, tiny_set, tmp_path):
    """As after a kill between the base model and the record that says so."""
    pretrain = ["pretrain", "-m", "ResNet8", "-d", tiny_set, "-bs", "4", "-n", "60", "--results-root", str(tmp_path / "R")]
    pretrain += ["-lr", "1e-6", "-ad", "adaptive"]
    assert call_main(*pretrain).code == 0
    run = only_run(tmp_path / "R")
    record = record_of(run)
    assert record.pop("ended_early")
    ended = record.pop("epochs_done")
    assert ended < 60
    for name in ("wrote", "result"):
        record.pop(name)
    more = {"epochs_done": ended, "ended_early": "alpha fell", "state": "running"}
    (run / "run.json").write_text(json.dumps(record | more))
    outcome = call_main(*pretrain)
    assert outcome.code == 0, outcome.err
    assert "holds these weights already" in outcome.out
    assert record_of(run)["state"] == "done"


def test_only_a_run_without_a_checkpoint_may_begin_with_other_data(command, call_main, tmp_path):
    """As after a kill before the first iteration: iterations_done is not recorded yet, or 0."""
    assert call_main(*command("R", "-meta", "STE", "--stop-after", "2")).code == 0
    run = only_run(tmp_path / "R")
    record = record_of(run)
    done = record.pop("iterations_done")
    for more in ({"iterations_done": done}, {"iterations_done": 0}, {}):
        (run / "run.json").write_text(json.dumps(record | more | {"data_digest": "0" * 64}))
        refused = call_main(*command("R", "-meta", "STE"))
        assert (refused.code, "was trained on other data" in refused.err) == (2, True)
    without_checkpoints(run)
    assert call_main(*command("R", "-meta", "STE")).code == 0
    assert record_of(run)["data_digest"] == record["data_digest"]
