"""What a system does to a run: signals, clocks, file systems, memory, a loader's worker that is killed."""

import errno
import json
import os
import signal
import stat
import time

import pytest
import torch
from resumed import only_run

from utils.errors import RunFailed, machine_failure
from utils.run.folder.checkpoint import checksum_holds, load_tensors, save_tensors
from utils.run.folder.run import Run
from utils.run.folder.signals import Signals
from utils.run.settings import PretrainSettings

STE = ["-meta", "STE", "-n", "2"]
SETTINGS = PretrainSettings(model="ResNet20", dataset="Digits", epochs=1)
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_a_signal_writes_a_checkpoint(name, command, call_main, at_batch, tmp_path, tally, request):
    which = signal.Signals[name]
    outside = signal.signal(which, signal.SIG_DFL)  # SIGHUP is ignored where the tests run under nohup
    request.addfinalizer(lambda: signal.signal(which, outside))
    at_batch(3, lambda: os.kill(os.getpid(), which))
    result = call_main(*command("stopped", *STE, "--checkpoint-every", "100"))
    assert result.code == 128 + which
    assert result.err.splitlines()[-1] == f"main.py: stopped by {name}; rerun the same command to resume"
    run = only_run(tmp_path / "stopped")
    assert load_tensors(run / "checkpoint.pth", "test", checksum_required=True)["loop"]["iteration"] == 3
    assert json.loads((run / "run.json").read_text())["state"] == "running"
    assert signal.getsignal(which) is signal.SIG_DFL
    tally("signal: a checkpoint, and the exit code says which")


def test_nohup_is_heeded():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.noted is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.noted is signal.SIGUSR1
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO, errno.ENOSPC])
def test_a_file_system_that_cannot_sync_folders(number, tmp_path, monkeypatch):
    sync = os.fsync

    def syncing(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    if number in (errno.EINVAL, errno.ENOTSUP):
        save_tensors({"a": 1}, tmp_path / "state.pth")
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            save_tensors({"a": 1}, tmp_path / "state.pth")
    assert checksum_holds(tmp_path / "state.pth")


def test_a_clock_that_is_set_back_changes_no_seconds(tmp_path, monkeypatch):
    with Run(tmp_path, SETTINGS, CPU) as run:
        monkeypatch.setattr(time, "time", lambda: 0.0)
        run.write()
        assert 0 <= run.record["seconds"] < 60
    assert 0 <= json.loads((tmp_path / "run.json").read_text())["seconds"] < 60


def too_much():
    torch.empty(1 << 50)


def no_memory():
    raise MemoryError


def bad_alloc():
    raise RuntimeError("std::bad_alloc")


def cuda_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")


def lost_worker():
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore")


FAILURES = {
    too_much: "out of memory: ",
    no_memory: "out of memory: MemoryError",
    bad_alloc: "out of memory: std::bad_alloc",
    cuda_memory: "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB",
    lost_worker: "a worker of the loader was lost: DataLoader worker (pid 7) is killed by signal: Killed. ",
}


@pytest.mark.parametrize("fail", FAILURES)
def test_a_machine_that_fails_is_one_line_with_the_checkpoint(fail, tmp_path, tally):
    with pytest.raises(RunFailed) as failure, Run(tmp_path, SETTINGS, CPU) as run:
        fail_after(run, fail)
    assert str(failure.value).startswith(f"{tmp_path}: {FAILURES[fail]}")
    last = f"the last good checkpoint was {tmp_path / 'checkpoint.pth'}, after 7 iterations; it is not there any more"
    assert str(failure.value).endswith(f"; {last}")
    assert "\n" not in str(failure.value)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["state"] == "failed"
    tally("out of memory, or a loader's worker killed: one line with the last good checkpoint")


def fail_after(run, fail):
    run.write(iterations_done=7)
    fail()


def test_errors_of_the_program_keep_their_traceback():
    for error in (None, RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("DataLoader worker")):
        assert machine_failure(error) is None


def test_a_device_without_a_deterministic_form_of_an_operation_is_one_line():
    """Such as the pooling of torchvision:vgg16 on CUDA."""
    error = RuntimeError(
        "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set\n'torch.use"
    )
    words = "--deterministic is not possible on this device: adaptive_avg_pool2d_backward_cuda does not have"
    assert machine_failure(error).startswith(words)


def test_no_memory_before_a_run_is_one_line(command, call_main, monkeypatch, tmp_path):
    monkeypatch.setattr("utils.run.build.load_data", lambda *_: too_much())
    result = call_main(*command("none"))
    assert result.code == 1
    assert result.err.startswith("main.py: error: out of memory: ")
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_a_killed_worker_of_the_loader(command, call_main, monkeypatch, tmp_path):
    from utils.batches import TorchvisionLoader

    take = TorchvisionLoader.take

    def taking(self, size):
        if self.training and len(list(tmp_path.rglob("checkpoint.pth"))):
            os.kill(self._batches._workers[0].pid, signal.SIGKILL)
            time.sleep(0.2)
        return take(self, size)

    monkeypatch.setattr(TorchvisionLoader, "take", taking)
    flags = ["-bs", "1", "--loader", "torchvision", "--workers", "1", "--checkpoint-every", "1it"]
    result = call_main(*command("killed", *STE, *flags))
    assert result.code == 1, result.err
    assert "Traceback" not in result.err
    run = only_run(tmp_path / "killed")
    line = result.err.splitlines()[-1]
    assert line.startswith(f"main.py: error: {run}: a worker of the loader was lost: DataLoader worker")
    assert f"the last good checkpoint is {run / 'checkpoint.pth'}, after" in line
