"""Runs that are killed or stopped go on to the very bytes of the run that was not."""

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import until, write_npz
from resumed import assert_same, only_run, outcome, record_of

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


def running(pid):
    """Whether the process has not ended yet (a zombie has)."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


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


def test_a_run_that_has_replaced_another_is_resumed_without_overwrite(command, call_main, at_batch, tmp_path):
    stopped = call_main(*command("R", "--overwrite", "--stop-after", "1"))
    assert stopped.out.endswith("stopped after 1 iteration; rerun without --stop-after and --overwrite to continue\n")
    at_batch(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert call_main(*command("R", "--overwrite")).err.endswith(
        "stopped by SIGTERM; rerun the same command without --overwrite to resume\n"
    )
    assert "resumed after 2 iterations" in call_main(*command("R", "--stop-after", "3")).out


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
    assert f": process {server.pid} on " in result.err
    assert "taking over" in result.err
    tally("second process on a run's folder: refused", len(refused))


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
