"""Trials as CSV files: written and read back exactly, and what is wrong with one is named."""

import lzma
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from run_folders import CELL, make_trial, settings_of

from utils.errors import BadInput
from utils.report.csv_files import read_csv, write_csv
from utils.report.reading import find_trials

HEAD = "model,dataset,forward,backward,optimizer,trial,epoch,test_acc,train_loss,train_acc\n"

ROW = "ResNet20,CIFAR10,dorefa,STE,SGD,1,{},50,1,40\n"


def test_csv_there_and_back(tmp_path):
    random, own = np.random.default_rng(0), settings_of(CELL, 1, 4, precision="bf16")
    made = [
        make_trial(random.random(4) * 100, seconds=np.array([1.5, 2, 2, 2]), made_by="cpu", settings=own),
        make_trial(random.random(3) * 100, number=2, settings={"folder": "x"}),
        make_trial(random.random(3), number=3, state="failed"),
    ]
    write_csv(made, tmp_path / "runs.csv.xz")
    back, problems = find_trials([tmp_path / "runs.csv.xz"])
    assert problems == []
    assert [trial.state for trial in back] == ["done", "done", "failed"]
    for one, other in zip(made, back, strict=False):
        for curve in ("test_acc", "train_loss", "train_acc", "seconds"):
            np.testing.assert_array_equal(getattr(one, curve), getattr(other, curve))
        assert (one.cell, one.number, one.made_by, one.recorded) == (other.cell, other.number, other.made_by, other.recorded)
    assert back[0].grouping_key == made[0].grouping_key.replace('"data_root": "data", ', "")
    assert "data_root" not in lzma.open(tmp_path / "runs.csv.xz", "rt").read()


def test_every_float_is_read_back_exactly(tmp_path):
    random = np.random.default_rng(0)
    values = np.concatenate([random.random(2000) * 100, random.random(500) * 10.0 ** random.integers(-300, 300, 500), [np.nan]])
    write_csv([replace(make_trial(np.minimum(values, 100)), train_loss=values)], tmp_path / "runs.csv")
    (back,) = read_csv(tmp_path / "runs.csv")
    np.testing.assert_array_equal(back.train_loss, values)


def test_a_trial_that_is_there_twice_is_two_trials(tmp_path):
    """As after joining two files; rows of several trials may alternate."""
    rows = [ROW.format(1), ROW.replace("STE", "FC-Grad").format(1), ROW.format(2), ROW.format(1)]
    (tmp_path / "joined.csv").write_text(HEAD + "".join(rows))
    assert [(trial.cell.backward, trial.epochs) for trial in read_csv(tmp_path / "joined.csv")] == [
        ("STE", 2),
        ("FC-Grad", 1),
        ("STE", 1),
    ]


def test_a_truncated_file_is_named(tmp_path):
    write_csv([make_trial(np.arange(50.0))], tmp_path / "runs.csv.xz")
    (tmp_path / "cut.csv.xz").write_bytes((tmp_path / "runs.csv.xz").read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"cut\.csv\.xz cannot be read"):
        read_csv(tmp_path / "cut.csv.xz")


def test_a_file_that_holds_too_much_is_not_unpacked(tmp_path, monkeypatch, tally):
    rows = HEAD + "".join(ROW.format(epoch) for epoch in range(1, 5))
    for path in (tmp_path / "runs.csv", tmp_path / "runs.csv.xz"):
        path.write_bytes(lzma.compress(rows.encode()) if path.suffix == ".xz" else rows.encode())
        monkeypatch.setattr("utils.report.csv_files.CSV_LIMIT", max(len(rows), path.stat().st_size))
        assert read_csv(path)[0].epochs == 4
        monkeypatch.setattr("utils.report.csv_files.CSV_LIMIT", len(rows) - 1)
        with pytest.raises(BadInput, match=r"cannot be read: it (is larger|decompresses to more) than"):
            read_csv(path)
    bomb = tmp_path / "zeros.csv.xz"
    with lzma.open(bomb, "wb", preset=0) as file:
        file.write(b"0" * (20 << 20))
    monkeypatch.setattr("utils.report.csv_files.CSV_LIMIT", 1 << 20)
    tracemalloc.start()
    with pytest.raises(BadInput, match="decompresses to more than 1 MiB"):
        read_csv(bomb)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    tally("file that unpacks to far more than it takes: refused before it is unpacked")


BAD_CSV = {
    "no column": (HEAD.replace("model", "net") + ROW.format(1), "model"),
    "no number": (HEAD + ROW.format(1).replace("50", "high"), "high"),
    "gap": (HEAD + ROW.format(1) + ROW.format(3), "epochs"),
    "no first epoch": (HEAD + ROW.format(2), "first epoch"),
    "settings a number": (HEAD.replace("\n", ",settings\n") + ROW.format(1).replace("\n", ",3\n"), "not an object"),
    "short row": (HEAD + "ResNet20,CIFAR10,dorefa,STE,SGD,1,1\n", "cannot be read"),
    "first row too long": (HEAD + ROW.format(1).replace("40", "40,7") + ROW.format(2), "Length of header"),
    "later row too long": (HEAD + ROW.format(1) + ROW.format(2).replace("40", "40,7"), "line 3"),
    "no quantizer": (HEAD.replace("forward", "way") + ROW.format(1), "no column quantizer"),
    "open quote": (HEAD + ROW.format(1).replace("dorefa", '"dorefa'), "cannot be read"),
    "empty": ("", "cannot be read"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv_files_are_named(case, tmp_path):
    text, word = BAD_CSV[case]
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(BadInput, match=rf"(?s)bad\.csv.*{word}") as error:
        read_csv(tmp_path / "bad.csv")
    assert "\n" not in str(error.value)
    (tmp_path / "bad.csv.xz").write_text(text)
    with pytest.raises(BadInput, match=r"bad\.csv\.xz cannot be read"):
        read_csv(tmp_path / "bad.csv.xz")
