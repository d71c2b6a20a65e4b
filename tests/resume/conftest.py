"""Runs to interrupt, and runs that were interrupted in the middle."""

import itertools
import shutil

import pytest
from conftest import write_npz
from resumed import STE, files_of, only_run, train_little

from main import main
from utils.batches import ResidentLoader


@pytest.fixture
def command(tmp_path, tiny_set):
    """command(root, *flags): a training command of 6 epochs of 2 iterations that drops alpha after every second epoch."""

    def build(root, *flags):
        where = ["--results-root", str(tmp_path / root), "--pretrained", "none"]
        return ["train", "-m", "ResNet8", "-d", tiny_set, "-bs", "4", "-n", "6", "-ad", "2", "-lr", "0.05", *where, *flags]

    return build


@pytest.fixture
def half(command, call_main, tmp_path):
    """half(root): a run of a command like MultiFC's that was stopped in the middle with two checkpoints; returns its folder."""

    def make(root):
        stopped = call_main(*command(root, "--checkpoint-every", "1it", "--stop-after", "5"))
        assert stopped.code == 0, stopped.err
        run = only_run(tmp_path / root)
        assert sorted(path.name for path in run.glob("checkpoint*.pth")) == ["checkpoint-previous.pth", "checkpoint.pth"]
        return run

    return make


@pytest.fixture
def at_batch(monkeypatch):
    """at_batch(n, action): calls the action before the n-th training batch (from 1) of the next run in this process."""

    def plan(n, action):
        batches, take = itertools.count(1), ResidentLoader.take

        def taking(self, size):
            if self.training and next(batches) == n:
                action()
            return take(self, size)

        monkeypatch.setattr(ResidentLoader, "take", taking)

    return plan


@pytest.fixture
def donor(first, tmp_path):
    """A copy of `first`, the run that a module's other runs begin with."""
    return shutil.copytree(first, tmp_path / "donor")


@pytest.fixture(scope="session")
def stopped_ste(tmp_path_factory):
    """A folder with a.npz and R, which holds an STE run on it that was stopped after 3 of 4 iterations."""
    folder = tmp_path_factory.mktemp("stopped")
    data = write_npz(folder / "a.npz")
    assert main(train_little(folder / "R", data, *STE, "--checkpoint-every", "1it", "--stop-after", "3")) == 0
    return folder


@pytest.fixture
def ste_data(stopped_ste):
    """The -d value of that run."""
    return f"NPZ:{stopped_ste / 'a.npz'}"


@pytest.fixture
def copied(stopped_ste, tmp_path):
    """copied(name): a copy of R of its own, and its run's folder."""

    def copy(name):
        root = shutil.copytree(stopped_ste / "R", tmp_path / name)
        return root, only_run(root)

    return copy


@pytest.fixture
def refused(call_main, tally):
    """refused(arguments, words, root, kind): one line that holds the words, exit code 2, nothing written below root."""

    def check(arguments, words, root, kind):
        before = files_of(root)
        outcome = call_main(*arguments)
        assert (outcome.code, outcome.out) == (2, ""), outcome.err
        (line,) = outcome.err.splitlines()
        for word in words:
            assert word in line
        assert files_of(root) == before
        tally(kind)

    return check
