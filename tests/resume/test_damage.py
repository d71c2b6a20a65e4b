"""Damaged or lost files and a full disk: what is whole is used, what is not is refused, and nothing is deleted."""

import json
import random

import pytest
import torch
from conftest import Malicious
from resumed import LOGS, assert_same, files_of

from utils.errors import BadInput
from utils.run.folder.checkpoint import Checkpoints, checksum_holds, load_tensors, save_tensors


def spoil(path, damage, tmp_path):
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        del data[len(data) // 2 :]
    elif damage == "bit flipped":
        data[len(data) // 3] ^= 1
    elif damage == "empty":
        data.clear()
    if damage == "pickled code":
        save_tensors({"loop": Malicious(str(tmp_path / "trace"))}, path)
    else:
        path.write_bytes(data)


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "empty", "pickled code"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(damage, half, server, command, call_main, tmp_path, tally):
    server.start(command("whole", "--checkpoint-every", "1it"), tmp_path / "log")
    assert server.wait() == 0
    run = half("damaged")
    newest = run / "checkpoint.pth"
    spoil(newest, damage, tmp_path)
    result = call_main(*command("damaged", "--checkpoint-every", "1it"))
    assert result.code == 0, result.err
    assert f"warning: checkpoint: {newest} is " in result.err
    assert f"going on from {run / 'checkpoint-previous.pth'}" in result.err
    assert not (tmp_path / "trace").exists()
    assert_same(tmp_path / "damaged", tmp_path / "whole")
    tally("newest checkpoint damaged or hostile, then resumed from the previous one")


def test_two_damaged_checkpoints_are_an_error_and_stay(half, command, call_main, tmp_path, tally):
    run = half("damaged")
    for name in ("checkpoint.pth", "checkpoint-previous.pth"):
        spoil(run / name, "bit flipped", tmp_path)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.name.startswith("checkpoint") or path.name in LOGS}
    result = call_main(*command("damaged", "--checkpoint-every", "1it"))
    assert result.code == 2
    line = result.err.splitlines()[-1]
    assert "no checkpoint is whole" in line
    assert "--overwrite" in line
    assert {name: (run / name).read_bytes() for name in before} == before
    tally("both checkpoints damaged: refused, nothing deleted")


def test_lost_log_rows_are_an_error(half, command, call_main, tally):
    run = half("damaged")
    (run / "loss.txt").write_text("")
    result = call_main(*command("damaged", "--checkpoint-every", "1it"))
    assert result.code == 2
    assert "loss.txt has lost rows" in result.err.splitlines()[-1]
    tally("log file shorter than the checkpoint says: refused")


def test_lost_checkpoints_are_an_error(half, command, call_main, tally):
    run = half("lost")
    rows = (run / "loss.txt").read_bytes()
    for path in run.glob("checkpoint*.pth"):
        path.unlink()
    result = call_main(*command("lost"))
    assert result.code == 2
    assert "has no checkpoint, but" in result.err
    assert (run / "loss.txt").read_bytes() == rows
    tally("lost checkpoints: refused, nothing touched")


def test_logs_without_a_record_and_checkpoints_are_not_emptied(half, command, call_main, tmp_path, tally):
    """As of published runs, or of runs whose large files were left out of a copy."""
    run = half("R")
    for path in (run / "run.json", *run.glob("checkpoint*.pth")):
        path.unlink()
    before = files_of(tmp_path)
    outcome = call_main(*command("R"))
    (line,) = outcome.err.splitlines()
    assert f"{run} holds loss.txt of a run, and no run.json: move it away, or --overwrite" in line
    assert (outcome.code, files_of(tmp_path)) == (2, before)
    tally("logs without a record and checkpoints: refused, nothing written")
    assert call_main(*command("R", "--overwrite", "--stop-after", "1")).code == 0
    (moved,) = run.parent.glob("replaced/*")
    assert (moved / "loss.txt").read_bytes() == before[run / "loss.txt"]


def test_a_full_disk_leaves_the_last_good_checkpoint(half, server, command, tmp_path, tally):
    """RLIMIT_FSIZE: every write past 1 MB fails, so no checkpoint can be written."""
    server.start(command("whole", "--checkpoint-every", "1it"), tmp_path / "log")
    assert server.wait() == 0
    run = half("full")
    done = load_tensors(run / "checkpoint.pth", "test", checksum_required=True)["loop"]["iteration"]
    log = tmp_path / "full-log"
    server.start(command("full", "--checkpoint-every", "1it"), log, file_size=1_000_000)
    assert server.wait() == 1
    (line,) = [line for line in log.read_text().splitlines() if "error" in line]
    assert "File too large" in line
    assert f"the last good checkpoint is {run / 'checkpoint.pth'}, after {done} iterations" in line
    assert load_tensors(run / "checkpoint.pth", "test", checksum_required=True)["loop"]["iteration"] == done
    assert json.loads((run / "run.json").read_text())["state"] == "failed"
    assert not list(run.glob("*.tmp"))
    server.start(command("full", "--checkpoint-every", "1it"), tmp_path / "log")
    assert server.wait() == 0
    assert_same(tmp_path / "full", tmp_path / "whole")
    tally("disk full while a checkpoint is written, then resumed")


def test_every_flip_and_cut_of_a_file_is_noticed(tmp_path, tally):
    path = tmp_path / "state.pth"
    state = {"a": torch.arange(1000), "b": [1, (2.5, "three"), None]}
    save_tensors(state, path)
    assert checksum_holds(path)
    whole = path.read_bytes()
    assert torch.equal(torch.load(path, weights_only=True)["a"], state["a"])  # plain torch reads it too
    moments = random.Random(0)
    for trial in range(200):
        data = bytearray(whole)
        if trial % 2:
            data[moments.randrange(len(data))] ^= 1 << moments.randrange(8)
        else:
            del data[moments.randrange(len(data)) :]
        path.write_bytes(data)
        with pytest.raises(BadInput, match="damaged"):
            load_tensors(path, "test", checksum_required=True)
        tally("bit flipped in a file of tensors: refused" if trial % 2 else "file of tensors cut short: refused")


def test_the_previous_checkpoint_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    for i in range(3):
        checkpoints.save({"i": i})
    assert checkpoints.load() == {"i": 2}
    checkpoints.newest.unlink()
    assert checkpoints.load() == {"i": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-previous.pth"]
