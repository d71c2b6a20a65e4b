"""A run whose folder, lock or logs go away while it works: it ends at its next save, and no other run's files are touched."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conftest import until
from resumed import LAYERS, LOGS, only_run

from utils.errors import RunFailed
from utils.recorder import Recorder
from utils.run.folder.lock import is_locked
from utils.run.folder.run import Run
from utils.run.settings import PretrainSettings

STE = ["-meta", "STE", "--checkpoint-every", "1it"]


def delete(name):
    return lambda run: (run / name).unlink()


def replace(name):
    def act(run):
        data = (run / name).read_bytes()
        (run / name).unlink()
        (run / name).write_bytes(data)

    return act


def link(name):
    def act(run):
        moved = (run / name).rename(run / f"moved-{name}")
        (run / name).symlink_to(moved)

    return act


def remove(folder):
    """In one step: TensorBoard's thread could add a file while the folder is emptied."""
    shutil.rmtree(folder.rename(folder.with_name("removed")))


def move(run):
    run.rename(run.with_name("moved"))


def move_and_copy(run):
    shutil.copytree(run.rename(run.with_name("moved")), run)


def files(folder):
    """The bytes of a folder's files, but for TensorBoard's; none where there is no such folder."""
    if not folder.exists():
        return {}
    return {path.name: path.read_bytes() for path in folder.iterdir() if "tfevents" not in path.name}


GONE = {
    "lock deleted": (delete("run.lock"), "run.lock"),
    "lock replaced": (replace("run.lock"), "run.lock"),
    **{f"{name} deleted": (delete(name), name) for name in (*LOGS, LAYERS)},
    **{f"{name} replaced": (replace(name), name) for name in (*LOGS, LAYERS)},
    "log linked": (link("loss.txt"), "loss.txt"),
    "folder deleted": (remove, "run.lock"),
    "folder moved": (move, "run.lock"),
    "folder replaced": (move_and_copy, "run.lock"),
}


class Loop:
    """A training loop after so many iterations."""

    iteration = 0

    def state_dict(self):
        return {}


LEFT = {}  # run -> what its folder held after that


def work(path, act):
    """A run of which something is lost after its second checkpoint."""
    settings, loop = PretrainSettings(model="ResNet20", dataset="Digits", epochs=1), Loop()
    with Run(path, settings, torch.device("cpu")) as run, Recorder(path, state={}, layers=True) as recorder:
        for loop.iteration in (1, 2, 3):
            recorder.update(loss=1.0, acc=50.0, batch_size=1, cur_lr=0.1)
            recorder.flush()
            if loop.iteration == 3:
                act(path)
                LEFT[path] = files(path)
            run.save(loop, recorder)


@pytest.mark.parametrize("case", GONE)
def test_what_goes_away_ends_the_run_at_its_next_save(case, tmp_path, tally):
    act, name = GONE[case]
    path = tmp_path / "R" / "run"
    with pytest.raises(RunFailed) as failure:
        work(path, act)
    checkpoint = path / "checkpoint.pth"
    last = f"the last good checkpoint is {checkpoint}, after 2 iterations"
    if not checkpoint.exists():
        last = f"the last good checkpoint was {checkpoint}, after 2 iterations; it is not there any more"
    assert str(failure.value) == f"{path / name} was deleted, moved or replaced while it was in use; {last}"
    if name == "run.lock":  # the folder may be another process's by now
        assert files(path) == LEFT[path]
    tally("folder, lock or log that goes away during a run: the run ends, nothing else is touched")


def test_the_end_of_a_run_is_not_written_into_a_folder_that_was_replaced(tmp_path):
    path = tmp_path / "run"
    run = Run(path, PretrainSettings(model="ResNet20", dataset="Digits", epochs=1), torch.device("cpu")).__enter__()
    move_and_copy(path)
    before = files(path)
    with pytest.raises(RunFailed, match=r"run\.lock was deleted"):
        run.write(captured=False)
    with pytest.raises(RunFailed, match=r"run\.lock was deleted"):
        run.__exit__(None, None, None)
    assert files(path) == before


def test_a_second_process_is_kept_out_where_the_lock_was_deleted(server, command, call_main, tmp_path, tally):
    server.start(command("shared", *STE), tmp_path / "log")
    until(lambda: list((tmp_path / "shared").rglob("checkpoint.pth")))
    os.kill(server.pid, signal.SIGSTOP)
    run = only_run(tmp_path / "shared")
    (run / "run.lock").unlink()
    before = files(run)
    result = call_main(*command("shared", *STE))
    assert result.code == 75
    assert f"{run} is in use: another process writes {run / 'loss.txt'}" in result.err
    assert is_locked(run)
    after = files(run)
    assert after.pop("run.lock") == b""
    assert after == before
    assert server.kill(signal.SIGCONT) == 1  # by itself
    assert f"{run / 'run.lock'} was deleted, moved or replaced" in (tmp_path / "log").read_text()
    assert call_main(*command("shared", *STE)).code == 0
    assert [int(row.split(",")[0]) for row in (run / "loss.txt").read_text().splitlines()] == list(range(12))
    tally("second process on a run's folder: refused")


def test_a_base_model_is_not_written_where_the_folder_has_gone(call_main, at_batch, tiny_set, tmp_path):
    """Neither the run's folder nor the one above it is made again."""
    at_batch(2, lambda: remove(tmp_path / "R"))
    result = call_main("pretrain", "-m", "ResNet8", "-d", tiny_set, "-bs", "4", "-n", "1", "--results-root", tmp_path / "R")
    assert result.code == 1
    (line,) = [line for line in result.err.splitlines() if "note:" not in line]
    assert "run.lock was deleted, moved or replaced while it was in use; there is no checkpoint yet" in line
    assert not Path(tmp_path / "R").exists()


def test_tensorboard_writes_nothing_into_a_folder_that_was_replaced(tmp_path):
    path = tmp_path / "run"
    recorder = Recorder(path, state={})
    recorder.update(loss=1.0, acc=50.0, batch_size=1, cur_lr=0.1)
    recorder._writer.flush()  # its thread writes on its own time
    path.rename(tmp_path / "moved")
    path.mkdir()
    recorder.close()
    assert list(path.iterdir()) == []
