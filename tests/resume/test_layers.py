"""layers.csv of runs that are interrupted has the same bytes; what an earlier version's checkpoint does not know stays empty."""

import csv

import pytest
from resumed import LAYERS, log_bytes, only_run

from main import main
from utils.logs.layers_csv import LayerRow
from utils.run.folder.checkpoint import load_tensors, save_tensors

EPOCHS = 6  # of two iterations


def rows_of(run):
    """(epoch, layer) -> the fields after them, by column."""
    with open(run / LAYERS, newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == LayerRow._fields
    return {(int(row[0]), row[1]): dict(zip(head[3:], row[3:], strict=True)) for row in rows}


@pytest.fixture(scope="module")
def train(tiny_set):
    """train(root, stop): trains until iteration `stop`, or to the end; returns the run's folder."""

    def call(root, stop=None):
        flags = ["-q", "BWN", "-o", "SGD-M", "-lr", "0.2", "-ad", "2", "-bs", "4", "-n", str(EPOCHS), "--pretrained", "none"]
        stopping = ["--stop-after", str(stop)] if stop else []
        assert main(["train", "-m", "ResNet8", "-d", tiny_set, *flags, *stopping, "--results-root", str(root)]) == 0
        return only_run(root)

    return call


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The folder of a run that was not interrupted."""
    return train(tmp_path_factory.mktemp("whole"))


def test_a_row_per_epoch_and_layer(whole):
    rows = rows_of(whole)
    layers = list(dict.fromkeys(layer for _, layer in rows))
    assert [*rows] == [(epoch, layer) for epoch in range(1, EPOCHS + 1) for layer in layers]
    assert (layers[0], len(layers), layers[-1]) == ("conv1", 10, "fc")
    for (epoch, _), row in rows.items():
        assert [name for name, text in row.items() if not text] == (["oscillating"] if epoch == 1 else [])
    assert sum(float(row["flipped"]) > 0 for row in rows.values()) > 10


def test_a_resumed_run_writes_the_same_bytes(train, whole, tmp_path):
    """Stopped in the middle of epochs of two iterations, and at an end before its test."""
    for stop in (3, 4, 7):
        assert len(rows_of(train(tmp_path, stop))) == 10 * ((stop - 1) // 2)
    assert log_bytes(train(tmp_path)) == log_bytes(whole)


def forget(path):
    """Makes a checkpoint one of an earlier version, which knows nothing of layers.csv."""
    state = load_tensors(path, "test")
    for known in (state["recorder"]["log_sizes"], state["recorder"]["log_hashes"]):
        del known["layers"]
    del state["recorder"]["levels"]
    save_tensors(state, path)


@pytest.mark.parametrize("begins", ["within an epoch", "between epochs"])
def test_a_run_of_an_earlier_version_goes_on(begins, train, whole, tmp_path):
    """With the epochs to come; after its first one the levels are known again, but never those before training."""
    run = train(tmp_path, 5)
    if begins == "between epochs":  # with a file that an earlier try has left
        (run / "checkpoint-previous.pth").replace(run / "checkpoint.pth")
    else:
        (run / "checkpoint-previous.pth").unlink()
        (run / LAYERS).unlink()
    forget(run / "checkpoint.pth")
    train(tmp_path, 9)
    train(tmp_path)
    expected, found = rows_of(whole), rows_of(run)
    assert [*found] == [place for place in expected if place[0] > 2]
    for (epoch, layer), row in found.items():
        unknown = {"flipped_since_start"}
        unknown |= {"oscillating"} if epoch == 3 or (epoch == 4 and begins == "within an epoch") else set()
        unknown |= {"flipped"} if epoch == 3 and begins == "within an epoch" else set()
        assert row == expected[epoch, layer] | dict.fromkeys(unknown, "")
    assert log_bytes(run) | {LAYERS: b""} == log_bytes(whole) | {LAYERS: b""}


def test_full_precision_has_no_such_file(call_main, tiny_set, tmp_path):
    outcome = call_main("pretrain", "-m", "ResNet8", "-d", tiny_set, "-bs", "4", "-n", "1", "--results-root", tmp_path)
    assert outcome.code == 0, outcome.err
    run = only_run(tmp_path)
    assert not (run / LAYERS).exists()
    assert "levels" not in load_tensors(run / "checkpoint.pth", "test")["recorder"]
