"""Data are known by their content: a run goes on where they were moved, and not where they have changed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_npz
from parsed import parsed
from resumed import STE, only_run, record_of, train_little, without_checkpoints

from utils import MAIN
from utils.batches import ImageSet
from utils.report.reading import find_trials
from utils.report.trials import group_trials
from utils.run.folder.checkpoint import load_tensors, save_tensors
from utils.run.folder.name import run_path
from utils.run.identity import IMAGES, data_digest
from utils.run.settings import TrainSettings
from utils.tables.selection import State, TableRun


def other_images(part):
    return lambda arrays: arrays | {f"x_{part}": 255 - arrays[f"x_{part}"]}


def other_labels(part):
    return lambda arrays: arrays | {f"y_{part}": np.roll(arrays[f"y_{part}"], 1)}


def fewer(part, rest):
    return lambda arrays: arrays | {f"{kind}_{part}": arrays[f"{kind}_{part}"][:rest] for kind in "xy"}


def one_pixel(arrays):
    images = arrays["x_train"].copy()
    images[3, 2, 1, 0] ^= 1
    return arrays | {"x_train": images}


CHANGES = {
    "other training images": other_images("train"),
    "other test images": other_images("test"),
    "permuted training labels": other_labels("train"),
    "permuted test labels": other_labels("test"),
    "half of the training images": fewer("train", 4),
    "half of the test images": fewer("test", 4),
    "one image less": fewer("train", 7),
    "one class more": lambda arrays: arrays | {"y_train": np.arange(8) % 3},
    "one class more, in the test set": lambda arrays: arrays | {"y_test": np.arange(8) % 3},
    "one pixel": one_pixel,
    "another order": lambda arrays: {name: array[::-1] for name, array in arrays.items()},
    "splits exchanged": lambda arrays: {
        f"{k}_{p}": arrays[f"{k}_{q}"] for k in "xy" for p, q in (("train", "test"), ("test", "train"))
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_refused(change, stopped_ste, copied, refused, tmp_path):
    with np.load(stopped_ste / "a.npz") as file:
        arrays = CHANGES[change](dict(file))
    np.savez(tmp_path / "a.npz", **arrays)
    data = f"NPZ:{tmp_path / 'a.npz'}"
    root, run = copied("R")
    record = record_of(run)
    record["settings"]["dataset"] = data  # as if it had always been this path
    (run / "run.json").write_text(json.dumps(record))
    words = [str(run), f"was trained on data other than what {data} holds now"]
    if change == "one class more, in the test set":  # which is not a data set to train on
        words = [f"--dataset {data}: no training image has"]
    refused(train_little(root, data, *STE), words, root, "data changed before a resume: refused, nothing written")
    refused(["evaluate", run], words, root, "data changed before `evaluate`: refused")


def test_moved_data_and_results_are_the_same_run(stopped_ste, ste_data, copied, call_main, tmp_path):
    root, run = copied("moved results")
    (tmp_path / "b").mkdir()
    here = f"NPZ:{shutil.copy(stopped_ste / 'a.npz', tmp_path / 'b' / 'a.npz')}"
    record = record_of(run)
    record["settings"]["dataset"] = f"NPZ:{tmp_path / 'gone' / 'a.npz'}"  # where they were
    (run / "run.json").write_text(json.dumps(record))
    lost = call_main("evaluate", run)
    assert lost.code == 2
    assert lost.err.endswith("gone/a.npz, which is not there; give its new place with -d NPZ:PATH\n")
    renamed = shutil.copy(stopped_ste / "a.npz", tmp_path / "other name.npz")
    for place in (here, f"NPZ:{renamed}"):
        found = call_main("evaluate", run, "-d", place)
        assert (found.code, found.err) == (0, "")
    assert call_main("evaluate", run, "-d", "Digits").code == 2
    for trial, data in ((1, here), (2, ste_data)):
        outcome = call_main(*train_little(root, data, *STE, "--trial", trial))
        assert outcome.code == 0, outcome.err
        assert ("resumed after 3 iterations" in outcome.out) == (trial == 1)
    assert [path.name for path in root.iterdir()] == ["ResNet8-NPZ-a"]
    (group,), left_out = group_trials(find_trials([root])[0], lambda cell: None)
    assert (group.label, len(group.trials), left_out) == ("batch_size 4, from scratch, init_lr 0.05", 2, [])


def test_an_old_record_is_not_compared(copied, stopped_ste, call_main, tmp_path):
    """One that does not know its data by content, and whose checkpoints have neither digests nor hashes of the logs."""
    root, run = copied("old")
    own = shutil.copy(stopped_ste / "a.npz", tmp_path / "a.npz")
    record = record_of(run)
    record["settings"]["dataset"] = f"NPZ:{own}"
    del record["data_digest"]
    (run / "run.json").write_text(json.dumps(record))
    for path in run.glob("checkpoint*.pth"):
        state = load_tensors(path, "test")
        state["settings"]["dataset"] = f"NPZ:{own}"
        del state["data_digest"], state["recorder"]["log_hashes"]
        save_tensors(state, path)
    commands = train_little(root, f"NPZ:{own}", *STE), ["evaluate", run]
    write_npz(own, classes=3)  # what a checkpoint of two classes cannot be loaded into
    for command in commands:
        outcome = call_main(*command)
        assert outcome.code == 2
        (line,) = outcome.err.splitlines()
        assert str(run) in line
        assert "fc.weight" in line
        assert "shape" in line
    shutil.copy(stopped_ste / "a.npz", own)
    for command in commands:
        outcome = call_main(*command)
        assert (outcome.code, outcome.err) == (0, "")
    assert "data_digest" not in record_of(run)  # what it was trained on before is not known


def test_only_a_run_without_a_checkpoint_may_begin_with_other_data(command, call_main, tmp_path):
    """As after a kill before the first iteration: iterations_done is not recorded yet, or 0."""
    assert call_main(*command("R", "-meta", "STE", "--stop-after", "2")).code == 0
    run = only_run(tmp_path / "R")
    record = record_of(run)
    done = record.pop("iterations_done")
    for more in ({"iterations_done": done}, {"iterations_done": 0}, {}):
        (run / "run.json").write_text(json.dumps(record | more | {"data_digest": "0" * 64}))
        refused = call_main(*command("R", "-meta", "STE"))
        assert (refused.code, "was trained on data other than" in refused.err) == (2, True)
    without_checkpoints(run)
    assert call_main(*command("R", "-meta", "STE")).code == 0
    assert record_of(run)["data_digest"] == record["data_digest"]


def test_a_finished_run_does_not_answer_for_another_data_set_of_its_name(call_main, tmp_path):
    """Whose folder is the same; nor `pretrain`, nor `tables`."""
    for name in "ab":
        (tmp_path / name).mkdir()
    first = write_npz(tmp_path / "a" / "set.npz")
    with np.load(tmp_path / "a" / "set.npz") as file:
        np.savez(tmp_path / "b" / "set.npz", **one_pixel(dict(file)))
    other, root = f"NPZ:{tmp_path / 'b' / 'set.npz'}", tmp_path / "R"
    commands = [lambda data: train_little(root, data, *STE)]
    commands += [lambda data: ["pretrain", "-m", "ResNet8", "-bs", "4", "-n", "1", "-d", data, "--results-root", root]]
    for command in commands:
        assert call_main(*command(first)).code == 0
        refused = call_main(*command(other))
        assert (refused.code, f"was trained on data other than what {other} holds now" in refused.err) == (2, True)
        shutil.copy(tmp_path / "a" / "set.npz", tmp_path / "same.npz")
        (tmp_path / "c").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "a" / "set.npz", tmp_path / "c" / "set.npz")
        assert "is done" in call_main(*command(f"NPZ:{tmp_path / 'c' / 'set.npz'}")).out
    settings = TrainSettings.of(parsed(train_little(root, first, *STE)))
    for data, state in ((first, State.DONE), (other, State.REFUSED), (f"NPZ:{tmp_path / 'd' / 'set.npz'}", State.DONE)):
        run = TableRun(None, replace(settings, dataset=data), run_path(settings), MAIN)
        assert run.state()[0] == state, data  # of a file that is not there nothing is known


def test_every_image_is_a_part_of_the_digest():
    """However many are hashed at a time."""
    number = 2 * IMAGES + 1
    images, targets = torch.zeros(number, 1, 1, 3, dtype=torch.uint8), torch.zeros(number, dtype=torch.int64)
    digests = {data_digest(ImageSet(images, targets, 2, (0.5,) * 3, (0.5,) * 3))}
    for place in (0, IMAGES - 1, IMAGES, number - 1):
        changed = images.clone()
        changed[place] = 1
        digests.add(data_digest(ImageSet(changed, targets, 2, (0.5,) * 3, (0.5,) * 3)))
    assert len(digests) == 5
