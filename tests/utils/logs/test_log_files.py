"""Log files at a resume: cut back to the checkpoint, or refused and left alone where they have changed."""

import copy
import hashlib

import pytest
from run_folders import layer_rows

from utils import LOGS
from utils.errors import BadInput
from utils.logs.layers_csv import HEADER
from utils.recorder import Recorder


def test_layers_csv_is_begun_once_and_cut_back(tmp_path):
    with Recorder(tmp_path, state={}, layers=True) as recorder:
        begun = recorder.state_dict()
        recorder.record_layers(layer_rows(1), {}, {})
        state = recorder.state_dict()
        recorder.record_layers(layer_rows(2, first=2), {}, {})
    path = tmp_path / "layers.csv"
    whole = path.read_bytes()
    with Recorder(tmp_path, layers=True):
        assert path.read_bytes() == whole
    with Recorder(tmp_path, state=state, layers=True) as recorder:
        recorder.record_layers(layer_rows(2, first=2), {}, {})
    assert path.read_bytes() == whole
    with pytest.raises(BadInput, match=r"has the logs loss and train-acc and test-acc and lr and layers, and not"):
        Recorder(tmp_path, state=state)
    for earlier in (begun, {}):
        with Recorder(tmp_path, state=earlier, layers=True):
            pass
        assert path.read_text() == HEADER


def without_layers(state):
    """As the checkpoint of an earlier version has it."""
    state = copy.deepcopy(state)
    del state["levels"], state["log_sizes"]["layers"], state["log_hashes"]["layers"]
    return state


def test_an_earlier_versions_checkpoint_begins_layers_csv(tmp_path):
    with Recorder(tmp_path, state={}, layers=True) as recorder:
        recorder.update(loss=1.0, acc=50.0, batch_size=1)
        state = without_layers(recorder.state_dict())
        recorder.record_layers(layer_rows(1), {}, {})
    for _ in range(2):
        with Recorder(tmp_path, state=state, layers=True) as recorder:
            assert (recorder.levels, recorder.iteration) == ({}, 1)
        assert (tmp_path / "layers.csv").read_text() == HEADER
        (tmp_path / "layers.csv").unlink()


CHANGES = {  # of what a log held at the checkpoint; its length stays or grows
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "a digit more": lambda data: data.replace(b"\n", b"7\n", 1),
    "two rows swapped": lambda data: b"".join(reversed(data.splitlines(keepends=True))),
    "a row in front": lambda data: b"0, 1\n" + data,
    "a byte flipped": lambda data: data[:1].replace(data[:1], bytes([data[0] ^ 1])) + data[1:],
}

FILES = {"layers": "layers.csv", **{name: f"{name}.txt" for name in (*LOGS, "val-acc")}}


def two_epochs(recorder):
    """Two iterations and a test each; a validation accuracy that is not asked for is not written."""
    for epoch in range(2):
        recorder.reset_performance()
        for loss in (3.0, 2.0):
            recorder.update(loss=loss + epoch, acc=40.0, batch_size=1, cur_lr=0.1)
        recorder.record_layers(layer_rows(recorder.epoch + 1, first=recorder.epoch + 1), {}, {})
        recorder.update(loss=None, acc=60.0 + epoch, batch_size=0, is_train=False, val_acc=55.0 + epoch)


def test_logs_that_have_changed_are_refused_and_stay(tmp_path, tally):
    with Recorder(tmp_path, state={}, validation=True, layers=True) as recorder:
        two_epochs(recorder)
        state = recorder.state_dict()
        recorder.update(loss=1.0, acc=50.0, batch_size=1, cur_lr=0.1)  # after the checkpoint: is cut off again
        recorder.record_layers(layer_rows(1), {}, {})
    whole = {name: (tmp_path / file).read_bytes() for name, file in FILES.items()}
    for name, file in FILES.items():
        for case, change in CHANGES.items():
            changed = whole | {name: change(whole[name])}
            for other, data in changed.items():
                (tmp_path / FILES[other]).write_bytes(data)
            with pytest.raises(BadInput, match=f"{file} has (changed|lost rows)"):
                Recorder(tmp_path, state=state, validation=True, layers=True)
            assert {other: (tmp_path / FILES[other]).read_bytes() for other in FILES} == changed, case
            tally("log file changed before a resume: refused, nothing touched")
    for name, data in whole.items():
        (tmp_path / FILES[name]).write_bytes(data)
    for _ in range(2):  # the hashes go on through a resume
        with Recorder(tmp_path, state=state, validation=True, layers=True) as recorder:
            assert recorder.state_dict()["log_hashes"] == state["log_hashes"]
            two_epochs(recorder)
            state = recorder.state_dict()
    assert (tmp_path / "loss.txt").read_text().splitlines()[-1].startswith("11, ")
    found = {name: hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() for name, file in FILES.items()}
    assert state["log_hashes"] == found


def test_checkpoints_without_hashes_compare_lengths_and_whole_rows(tmp_path):
    with Recorder(tmp_path, state={}, layers=True) as recorder:
        two_epochs(recorder)
        state = recorder.state_dict()
    del state["log_hashes"]
    Recorder(tmp_path, state=state, layers=True).close()
    path = tmp_path / "loss.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(BadInput, match=r"loss\.txt has changed: its first 24 bytes are not those"):
        Recorder(tmp_path, state=state, layers=True)
