"""Run folders from elsewhere: links and FIFOs named like our files are neither followed nor waited for."""

import os
import sys

import pytest
import torch
from resumed import LAYERS, LOGS, log_bytes, only_run
from run_folders import make_run

from utils.errors import BadInput
from utils.recorder import Recorder
from utils.report.report import make_report
from utils.run.folder.checkpoint import Checkpoints, save_tensors
from utils.run.folder.lock import is_locked
from utils.run.folder.record import read_record
from utils.run.folder.run import OWN_FILES, Run
from utils.run.settings import PretrainSettings
from utils.tables.child import start_child

PRECIOUS = b"a file of someone else\n"
KIND = "link or FIFO in the place of a file of ours: not followed, one line"


def link(path, outside):
    path.symlink_to(outside)


def hanging_link(path, outside):
    outside.unlink()
    path.symlink_to(outside)


def link_to_endless(path, outside):
    path.symlink_to("/dev/zero")


def fifo(path, outside):
    os.mkfifo(path)


TRAPS = (link, hanging_link, link_to_endless, fifo)


@pytest.fixture
def outside(tmp_path):
    """A file that no run may touch."""
    path = tmp_path / "outside"
    path.write_bytes(PRECIOUS)
    return path


def untouched(outside):
    """A hanging link's target is still not there."""
    return not outside.exists() or outside.read_bytes() == PRECIOUS


def test_every_file_of_a_run_is_looked_at():
    checkpoints = {"checkpoint.pth", "checkpoint.pth.tmp", "checkpoint-previous.pth"}
    assert set(OWN_FILES) == {"run.lock", "run.json", "run.json.tmp", *checkpoints, *LOGS, "val-acc.txt", LAYERS}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("name", OWN_FILES)
def test_a_run_does_not_begin(name, trap, tmp_path, outside, tally):
    folder = tmp_path / "run"
    folder.mkdir()
    trap(folder / name, outside)
    settings = PretrainSettings(model="ResNet20", dataset="Digits", epochs=1)
    with pytest.raises(BadInput) as error:
        Run(folder, settings, torch.device("cpu")).__enter__()
    assert str(folder / name) in str(error.value)
    assert ("a FIFO" if trap is fifo else "a symbolic link") in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in folder.iterdir()] == [name]
    assert untouched(outside)
    tally(KIND)


@pytest.mark.parametrize("trap", TRAPS)
def test_what_opens_a_file_refuses_it_itself(trap, tmp_path, outside, tally):
    """Whoever put it there did so after the run began."""
    checkpoints = Checkpoints(tmp_path)
    for name, act in {
        "checkpoint.pth.tmp": lambda: checkpoints.save({}),
        "loss.txt": lambda: Recorder(tmp_path),
        "output.log": lambda: start_child([sys.executable, "-c", ""], tmp_path / "output.log", tmp_path, {}),
    }.items():
        outside.write_bytes(PRECIOUS)
        trap(tmp_path / name, outside)
        with pytest.raises(OSError, match=f"{name} is a (FIFO|symbolic link), not a regular file: remove it"):
            act()
        assert untouched(outside)
        (tmp_path / name).unlink()
        tally(KIND)


@pytest.mark.parametrize("trap", TRAPS)
def test_what_reads_a_file_does_not_wait(trap, tmp_path, outside, tally):
    for name in ("run.json", "run.lock", "checkpoint.pth"):
        outside.write_bytes(PRECIOUS)
        trap(tmp_path / name, outside)
    with pytest.raises(BadInput, match=r"run\.json"):
        read_record(tmp_path)
    assert not is_locked(tmp_path)
    if trap is hanging_link:
        assert Checkpoints(tmp_path).load() is None
    else:
        with pytest.raises(BadInput, match=r"checkpoint\.pth(, but something else of that name| is damaged)"):
            Checkpoints(tmp_path).load()
    assert untouched(outside)
    tally(KIND, 3)


@pytest.mark.parametrize("name", ["", ".tmp", "-previous"])
@pytest.mark.parametrize("trap", TRAPS)
def test_a_base_model_is_not_begun(name, trap, call_main, tmp_path, outside, tiny_set, tally):
    folder = tmp_path / "R" / "ResNet8-NPZ-tiny"
    folder.mkdir(parents=True)
    stem = folder / f"{folder.name}-pretrain"
    path = {"": f"{stem}.pth", ".tmp": f"{stem}.pth.tmp", "-previous": f"{stem}-previous.pth"}[name]
    trap(folder / path, outside)
    outcome = call_main("pretrain", "-m", "ResNet8", "-d", tiny_set, "-n", "1", "--results-root", tmp_path / "R", "--overwrite")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert f"the base model cannot be written: {path} is a " in line
    assert len(list(folder.iterdir())) == 1
    assert untouched(outside)
    tally(KIND)


@pytest.mark.parametrize("trap", TRAPS)
def test_a_report_takes_the_place_of_links(trap, tmp_path, outside, tally):
    make_run(tmp_path / "run")
    out, plain = tmp_path / "out", tmp_path / "plain"
    report, _ = make_report([tmp_path / "run"])
    report.write(plain)
    out.mkdir()
    names = [path.name for path in plain.iterdir()]
    assert {path.suffix for path in plain.iterdir()} == {".md", ".html", ".json", ".csv", ".xz", ".tex", ".png", ".svg"}
    for name in names:
        outside.write_bytes(PRECIOUS)
        trap(out / name, outside)
    report.write(out)
    assert all((out / name).is_file() and not (out / name).is_symlink() for name in names)
    assert not list(out.glob(".*"))
    assert untouched(outside)
    tally(KIND, len(names))


def test_a_stale_file_of_our_own_is_replaced(tmp_path):
    (tmp_path / "state.pth.tmp").write_bytes(b"half of")
    os.link(tmp_path / "state.pth.tmp", tmp_path / "other")
    save_tensors({"a": 1}, tmp_path / "state.pth")
    assert (tmp_path / "other").read_bytes() == b"half of"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "state.pth"]


def test_a_folder_behind_a_link_keeps_working(command, call_main, tmp_path):
    flags = ["-meta", "STE", "-n", "2"]
    for root in ("plain", "linked"):
        assert call_main(*command(root, *flags, "--stop-after", "2")).code == 0
    run = only_run(tmp_path / "linked")
    run.symlink_to(run.rename(tmp_path / "elsewhere"))
    results = [call_main(*command(root, *flags)) for root in ("plain", "linked")]
    assert [result.code for result in results] == [0, 0]
    plain = only_run(tmp_path / "plain")
    assert log_bytes(run) == log_bytes(plain)


def test_output_of_a_table_still_goes_into_its_log(tmp_path):
    for word in ("one", "two"):
        child = start_child([sys.executable, "-c", f"print('{word}')"], tmp_path / "output.log", tmp_path, {})
        assert child.wait() == 0
    assert (tmp_path / "output.log").read_text() == "one\ntwo\n"
