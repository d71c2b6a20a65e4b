"""layers.csv of runs that are interrupted has the same bytes; what an earlier version's checkpoint does not know stays empty."""

import csv

import pytest
from resumed import LAYERS, log_bytes, only_run

from utils.layers_csv import LayerRow
from utils.run.checkpoint import load_tensors, save_tensors

FLAGS = ["-q", "BWN", "-o", "SGD-M", "-lr", "0.2"]


def rows_of(run):
    """(epoch, layer) -> the fields after them, by column."""
    with open(run / LAYERS, newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == LayerRow._fields
    return {(int(row[0]), row[1]): dict(zip(head[3:], row[3:], strict=True)) for row in rows}


def train(call_main, command, root, *flags):
    outcome = call_main(*command(root, *FLAGS, *flags))
    assert outcome.code == 0, outcome.err


@pytest.fixture
def whole(command, call_main, tmp_path):
    """The folder of a run that was not interrupted."""
    train(call_main, command, "whole")
    return only_run(tmp_path / "whole")


def test_a_row_per_epoch_and_layer(whole):
    rows = rows_of(whole)
    assert [*rows] == [(epoch, layer) for epoch in range(1, 7) for layer in dict.fromkeys(layer for _, layer in rows)]
    assert len(rows) == 6 * 10
    for (epoch, _), row in rows.items():
        assert [name for name, text in row.items() if not text] == (["oscillating"] if epoch == 1 else [])
    assert sum(float(row["flipped"]) > 0 for row in rows.values()) > 30
    assert any(float(row["oscillating"] or 0) > 0 for row in rows.values())


@pytest.mark.parametrize("stops", [[3], [4], [1, 2, 5, 6, 9, 11]], ids=str)
def test_a_resumed_run_writes_the_same_bytes(stops, whole, command, call_main, tmp_path):
    """In the middle of an epoch of two iterations, at its end before the test, and both, many times."""
    for stop in (*stops, 12):
        train(call_main, command, "stopped", *(["--stop-after", stop] if stop < 12 else []))
        if stop < 12:
            assert len(rows_of(only_run(tmp_path / "stopped"))) == 10 * ((stop - 1) // 2)
    assert log_bytes(only_run(tmp_path / "stopped")) == log_bytes(whole)


def forget(path):
    """Makes a checkpoint one of an earlier version, which knows nothing of layers.csv."""
    state = load_tensors(path, "test")
    for known in (state["recorder"]["log_sizes"], state["recorder"]["log_hashes"]):
        del known["layers"]
    del state["recorder"]["levels"]
    save_tensors(state, path)


@pytest.mark.parametrize("begins", ["within an epoch", "between epochs"])
@pytest.mark.parametrize("left", ["no file", "a file of an earlier try"])
def test_a_run_of_an_earlier_version_goes_on(begins, left, whole, command, call_main, tmp_path):
    """With the epochs to come; after its first one the levels are known again, but never those before training."""
    train(call_main, command, "old", "--stop-after", "5")
    run = only_run(tmp_path / "old")
    if begins == "between epochs":
        (run / "checkpoint-previous.pth").replace(run / "checkpoint.pth")
    else:
        (run / "checkpoint-previous.pth").unlink()
    forget(run / "checkpoint.pth")
    if left == "no file":
        (run / LAYERS).unlink()
    train(call_main, command, "old", "--stop-after", "9")
    train(call_main, command, "old")
    expected, found = rows_of(whole), rows_of(run)
    assert [*found] == [place for place in expected if place[0] > 2]
    for (epoch, layer), row in found.items():
        unknown = {"flipped_since_start"}
        unknown |= {"oscillating"} if epoch == 3 or (epoch == 4 and begins == "within an epoch") else set()
        unknown |= {"flipped"} if epoch == 3 and begins == "within an epoch" else set()
        assert row == expected[epoch, layer] | dict.fromkeys(unknown, "")
    assert {name: data for name, data in log_bytes(run).items() if name != LAYERS} == {
        name: data for name, data in log_bytes(whole).items() if name != LAYERS
    }


def test_full_precision_has_no_such_file(call_main, tiny_set, tmp_path):
    outcome = call_main("pretrain", "-m", "ResNet8", "-d", tiny_set, "-bs", "4", "-n", "1", "--results-root", tmp_path)
    assert outcome.code == 0, outcome.err
    run = only_run(tmp_path)
    assert not (run / LAYERS).exists()
    assert "levels" not in load_tensors(run / "checkpoint.pth", "test")["recorder"]
