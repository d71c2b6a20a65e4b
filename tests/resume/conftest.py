"""A run to interrupt, and one that was interrupted in the middle."""

import signal

import pytest
from conftest import until
from resumed import only_run


@pytest.fixture
def command(tmp_path, tiny_set):
    """command(root, *flags): a training command of 6 epochs of 2 iterations that drops alpha after every second epoch."""

    def build(root, *flags):
        where = ["--results-root", str(tmp_path / root), "--pretrained", "none"]
        return ["train", "-m", "ResNet20", "-d", tiny_set, "-bs", "4", "-n", "6", "-ad", "2", "-lr", "0.05", *where, *flags]

    return build


@pytest.fixture
def half(server, command, tmp_path):
    """half(root): a run of a command like MultiFC's that was stopped in the middle with two checkpoints; returns its folder."""

    def make(root):
        server.start(command(root, "--checkpoint-every", "1it"), tmp_path / "log")
        until(lambda: list((tmp_path / root).rglob("checkpoint-previous.pth")))
        assert server.kill() == -signal.SIGKILL
        run = only_run(tmp_path / root)
        until(lambda: (run / "checkpoint.pth").exists(), 1)
        return run

    return make
