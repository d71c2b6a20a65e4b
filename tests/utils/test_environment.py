"""Seeds, generators and the allocator."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from utils import PROJECT
from utils.environment import git_state, random_states, restore_random_states, seed_everything
from utils.run.folder.checkpoint import load_tensors, save_tensors


def draws():
    return random.random(), np.random.standard_normal(3).tolist(), torch.randn(2).tolist()


def test_seed_and_trial_decide_everything():
    first = (seed_everything(1, 2), draws())
    assert (seed_everything(1, 2), draws()) == first
    for other in ((1, 3), (2, 2), (2, 1)):
        data_seed = seed_everything(*other)
        assert data_seed != first[0]
        assert all(a != b for a, b in zip(draws(), first[1], strict=True))


def test_generators_come_back_from_a_file(tmp_path):
    seed_everything(0, 1)
    np.random.standard_normal()  # leaves a second number in store
    save_tensors(random_states(), tmp_path / "random.pth")
    expected = draws()
    seed_everything(5, 5)
    restore_random_states(load_tensors(tmp_path / "random.pth", "test"))
    assert draws() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_kept_memory_is_not_faulted_in_again():
    """Minor page faults of taking and freeing 64 MiB twenty times, once the heap has grown: 16,384 a time without, none with."""
    program = """if True:
        import resource, torch
        from utils.environment import keep_freed_memory
        def faults():
            for _ in range(20):
                torch.ones(16 << 20)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(20):
                torch.ones(16 << 20)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        without = faults()
        assert keep_freed_memory()
        print(without, faults())
    """
    process = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, check=True)
    without, kept = map(int, process.stdout.split())
    assert kept < without / 100


def test_python_files_outside_the_repository_make_it_dirty(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    def write(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    monkeypatch.setattr("utils.environment.PROJECT", tmp_path.resolve())
    git("init")
    for name in ("main.py", "utils/a.py", "utils/run/b.py", "figs/c.py", "figs/d.csv", ".gitignore"):
        write(name)
    (tmp_path / ".gitignore").write_text("/Results*/\n")
    git("add", ".")
    git("commit", "-m", "all")
    for name in ("Results/x/code.py", "notes.txt", "data/set.npz", "data/own.py", "utils/run/table.csv"):
        write(name)  # results, data and notes change no number
    (tmp_path / "figs" / "d.csv").write_text("other")
    state = git_state()
    assert (state["dirty"], state["untracked"]) == (False, 0)
    for number, name in enumerate(("own.py", "utils/run/new.py", "utils/c.py", "utils/deep/er/d.py"), start=1):
        write(name)
        assert git_state() == state | {"dirty": True, "untracked": number}
    for name in ("own.py", "utils/run/new.py", "utils/c.py", "utils/deep/er/d.py"):
        (tmp_path / name).unlink()
    assert git_state() == state
    for name in ("utils/a.py", "figs/c.py"):
        (tmp_path / name).write_text("other")
        assert git_state() == state | {"dirty": True, "untracked": 0}
        write(name)
