"""What a run is made of is compared by its content: data, checkpoint, base model, program. Paths play no part."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import write_npz
from resumed import only_run

from main import main
from utils import MAIN
from utils.choices import MODELS
from utils.report.reading import find_trials
from utils.report.trials import group_trials
from utils.run import epochs
from utils.run.folder.checkpoint import load_tensors, save_tensors
from utils.run.identity import imported_files, program_contents

BASE = ["-m", "ResNet8", "-bs", "4", "-n", "2", "-lr", "0.05"]
STE = ["-meta", "STE", "--pretrained", "none"]


def train(root, data, *flags):
    return ["train", *BASE, "-d", data, "--results-root", str(root), *flags]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a.npz and R, which holds an STE run on it that was stopped after 3 of 4 iterations."""
    folder = tmp_path_factory.mktemp("stopped")
    data = write_npz(folder / "a.npz")
    assert main(train(folder / "R", data, *STE, "--checkpoint-every", "1it", "--stop-after", "3")) == 0
    return folder


@pytest.fixture
def copied(stopped, tmp_path):
    """copied(name): a copy of R of its own, and its run's folder."""

    def copy(name):
        root = tmp_path / name
        shutil.copytree(stopped / "R", root)
        return root, only_run(root) if list(root.rglob("run.json")) else None

    return copy


def files_of(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "run.lock"}


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
def test_changed_data_are_refused(change, stopped, copied, refused, tmp_path):
    with np.load(stopped / "a.npz") as file:
        arrays = CHANGES[change](dict(file))
    np.savez(tmp_path / "a.npz", **arrays)
    data = f"NPZ:{tmp_path / 'a.npz'}"
    root, run = copied("R")
    record = json.loads((run / "run.json").read_text())
    record["settings"]["dataset"] = data  # as if it had always been this path
    (run / "run.json").write_text(json.dumps(record))
    words = [str(run), f"was trained on other data than {data} holds now"]
    if change == "one class more, in the test set":  # which is not a data set to train on
        words = [f"--dataset {data}: no training image has"]
    refused(train(root, data, *STE), words, root, "data changed before a resume: refused, nothing written")
    refused(["evaluate", run], words, root, "data changed before `evaluate`: refused")


def test_moved_data_and_results_are_the_same_run(stopped, copied, call_main, tmp_path):
    root, run = copied("moved results")
    (tmp_path / "b").mkdir()
    here = f"NPZ:{shutil.copy(stopped / 'a.npz', tmp_path / 'b' / 'a.npz')}"
    record = json.loads((run / "run.json").read_text())
    record["settings"]["dataset"] = f"NPZ:{tmp_path / 'gone' / 'a.npz'}"  # where they were
    (run / "run.json").write_text(json.dumps(record))
    lost = call_main("evaluate", run)
    assert lost.code == 2
    assert lost.err.endswith("gone/a.npz, which is not there; -d NPZ:PATH says where it is now\n")
    renamed = shutil.copy(stopped / "a.npz", tmp_path / "other name.npz")
    for place in (here, f"NPZ:{renamed}"):
        found = call_main("evaluate", run, "-d", place)
        assert (found.code, found.err) == (0, "")
    assert call_main("evaluate", run, "-d", "Digits").code == 2
    for trial, data in ((1, here), (2, f"NPZ:{stopped / 'a.npz'}")):
        outcome = call_main(*train(root, data, *STE, "--trial", trial))
        assert outcome.code == 0, outcome.err
        assert ("resumed after 3 iterations" in outcome.out) == (trial == 1)
    assert [path.name for path in root.iterdir()] == ["ResNet8-NPZ-a"]
    (group,), left_out = group_trials(find_trials([root])[0], lambda cell: None)
    assert (group.label, len(group.trials), left_out) == ("batch_size 4, from scratch, init_lr 0.05", 2, [])


def test_an_old_record_is_not_compared(copied, stopped, call_main, tmp_path):
    """One that does not know its data by content, and whose checkpoints have neither digests nor hashes of the logs."""
    root, run = copied("old")
    own = shutil.copy(stopped / "a.npz", tmp_path / "a.npz")
    record = json.loads((run / "run.json").read_text())
    record["settings"]["dataset"] = f"NPZ:{own}"
    del record["data_digest"]
    (run / "run.json").write_text(json.dumps(record))
    for path in run.glob("checkpoint*.pth"):
        state = load_tensors(path, "test")
        state["settings"]["dataset"] = f"NPZ:{own}"
        del state["data_digest"], state["recorder"]["log_hashes"]
        save_tensors(state, path)
    commands = train(root, f"NPZ:{own}", *STE), ["evaluate", run]
    write_npz(own, classes=3)  # what a checkpoint of two classes cannot be loaded into
    for command in commands:
        outcome = call_main(*command)
        assert outcome.code == 2
        (line,) = outcome.err.splitlines()
        assert str(run) in line
        assert "fc.weight" in line
        assert "shape" in line
    shutil.copy(stopped / "a.npz", own)
    for command in commands:
        outcome = call_main(*command)
        assert (outcome.code, outcome.err) == (0, "")
    assert "data_digest" not in json.loads((run / "run.json").read_text())  # what it was trained on before is not known


OTHER_SETTINGS = {
    "seed": ["--seed", "1"],
    "init_lr": ["-lr", "0.5"],
    "weight_decay": ["--weight-decay", "0.1"],
    "batch_size": ["-bs", "2"],
    "epochs": ["-n", "3"],
    "drop_last": ["--drop-last", "-bs", "3"],
    "lr_adjust": ["-ad", "1"],
    "optimizer": ["-o", "Adam"],
    "quantizer": ["-q", "BWN"],
    "bits": ["-bw", "2"],
}


def test_without_run_json_the_checkpoint_says_what_the_run_is(copied, stopped, refused, call_main):
    data = f"NPZ:{stopped / 'a.npz'}"
    root, run = copied("no record")
    (run / "run.json").unlink()
    for name in ("seed", "init_lr", "weight_decay", "batch_size", "epochs", "drop_last"):  # that are not in the folder's name
        words = [f"{run}: the run of its checkpoint has other settings: ", name, " there and ", "--overwrite starts over"]
        kind = "run.json deleted and other settings given: refused, nothing written"
        refused(train(root, data, *STE, *OTHER_SETTINGS[name]), words, root, kind)
    outcome = call_main(*train(root, data, *STE))
    assert outcome.code == 0, outcome.err
    assert "resumed after 3 iterations" in outcome.out


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_the_checkpoint_of_another_run_is_refused(name, copied, stopped, refused):
    """As if it had been copied from a run with another setting."""
    root, run = copied("foreign")
    for path in run.glob("checkpoint*.pth"):
        state = load_tensors(path, "test")
        value = state["settings"][name]
        state["settings"][name] = "other" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1
        save_tensors(state, path)
    words = [f"{run}: the run of its checkpoint has other settings: {name} "]
    kind = "another run's checkpoint in the folder: refused, nothing written"
    refused(train(root, f"NPZ:{stopped / 'a.npz'}", *STE), words, root, kind)
    refused(["evaluate", run], words, root, kind)


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_an_edited_record_is_not_evaluated(name, copied, refused):
    root, run = copied("edited")
    record = json.loads((run / "run.json").read_text())
    value = record["settings"][name]
    edited = {"bits": 2, "quantizer": "BWN", "optimizer": "Adam"}.get(name, (not value) if isinstance(value, bool) else 7)
    record["settings"][name] = edited
    (run / "run.json").write_text(json.dumps(record))
    refused(
        ["evaluate", run], [f"other settings: {name} {value} there and {edited} here"], root, "run.json edited: not evaluated"
    )


def test_a_run_whose_base_model_has_gone_is_resumed(stopped, tmp_path, call_main, refused):
    data, base = f"NPZ:{stopped / 'a.npz'}", tmp_path / "base.pth"
    torch.manual_seed(5)
    torch.save(MODELS.load("ResNet8")(num_classes=2).state_dict(), base)
    root = tmp_path / "R"
    command = train(root, data, "-meta", "STE", "--pretrained", str(base))
    assert call_main(*command, "--stop-after", "3").code == 0
    run = only_run(root)
    digest = json.loads((run / "run.json").read_text())["base_model"]
    assert load_tensors(run / "checkpoint.pth", "test")["base_model"] == digest
    whole = base.read_bytes()
    base.write_bytes(whole[:-1])
    refused(command, [f"began from another base model than {base} is now"], root, "base model changed before a resume: refused")
    base.unlink()
    shutil.copytree(run, tmp_path / "saved")
    outcome = call_main(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.err == f"note: there is no base model {base} any more; going on from the checkpoint\n"
    assert json.loads((run / "run.json").read_text())["base_model"] == digest
    shutil.rmtree(run)
    shutil.copytree(tmp_path / "saved", run)
    for path in run.glob("checkpoint*"):
        path.unlink()
    words = [f"there is no base model {base}", "or say where it is now"]
    refused(command, words, root, "base model and checkpoint gone: refused, nothing written")
    refused([*command, "--overwrite"], ["or none for scratch"], root, "base model and checkpoint gone: refused, nothing written")


def test_a_file_called_none_is_no_base_model(copied, stopped, tmp_path, call_main, monkeypatch):
    root, run = copied("R")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").write_text("a note")
    outcome = call_main(*train(root, f"NPZ:{stopped / 'a.npz'}", *STE, "--stop-after", "3"))
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "run.json").read_text()).get("base_model") is None


def test_a_finished_base_model_is_not_replaced_by_a_resumed_trial(stopped, tmp_path, call_main, refused, tally):
    root = tmp_path / "R"
    command = ["pretrain", *BASE, "-n", "1", "-d", f"NPZ:{stopped / 'a.npz'}", "--results-root", str(root)]
    second = [*command, "--trial", "2"]
    assert call_main(*second, "--stop-after", "1").code == 0
    assert call_main(*command).code == 0
    (base,) = root.rglob("*-pretrain.pth")
    made = base.read_bytes()
    kind = "a base model that another trial has made: not replaced without --overwrite"
    refused(second, [f"{base} exists already, and another run made it", "move it away"], root, kind)
    aside = base.rename(base.with_name("aside"))
    fit = epochs.fit

    def fit_while_another_finishes(*args):
        fit(*args)
        shutil.copy(aside, base)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "fit", fit_while_another_finishes)
        outcome = call_main(*second)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert base.read_bytes() == made
    tally(kind)
    assert call_main(*second).code == 2  # its epochs are done: looked at again before writing
    assert base.read_bytes() == made
    base.unlink()
    outcome = call_main(*second)
    assert (outcome.code, outcome.err) == (0, "")
    own = base.read_bytes()
    assert own != made
    record = base.parent / "pretrain-trial-2" / "run.json"
    record.write_text(record.read_text().replace('"state": "done"', '"state": "running"'))  # killed just after writing
    outcome = call_main(*second)
    assert f"{base} holds these weights already" in outcome.out
    assert call_main(*second, "--overwrite", "--stop-after", "1").code == 0
    assert base.read_bytes() == own
    assert call_main(*second).code == 0  # --overwrite was given for this very base model
    assert base.with_name(f"{base.stem}-previous.pth").read_bytes() == own


def test_an_edited_program_of_ones_own_is_refused(copied, stopped, tmp_path, call_main, tally):
    root, run = copied("R")
    own, moved = tmp_path / "own.py", tmp_path / "elsewhere.py"
    for path in (own, moved):
        path.write_text("'''The first version.'''")
    record = json.loads((run / "run.json").read_text())
    assert "program" not in record  # main.py's commit is there
    record |= program_contents(own)
    (run / "run.json").write_text(json.dumps(record))
    for path in run.glob("checkpoint*.pth"):
        save_tensors(load_tensors(path, "test") | program_contents(own), path)
    command = train(root, f"NPZ:{stopped / 'a.npz'}", *STE, "--stop-after", "3")
    before, differs = files_of(root), f"{run} was made by another version of this program, or by another program"
    for content in ("The second version.", "", "The first version. "):
        own.write_text(content)
        outcome = call_main(*command, program=own)
        assert outcome.code == 2
        assert outcome.err == f"own.py: error: {differs}; --overwrite starts over\n"
        assert files_of(root) == before
        tally("program of one's own edited before a resume: refused, nothing written")
        outcome = call_main("evaluate", run, program=own)
        assert (outcome.code, outcome.err) == (0, f"note: {differs}\n")
    outcome = call_main(*command, program=moved)
    assert outcome.code == 0, outcome.err
    assert json.loads((run / "run.json").read_text())["program"] == program_contents(moved)["program"]


def test_the_files_that_a_program_imports_are_a_part_of_it(tmp_path):
    own, deep = tmp_path / "own.py", tmp_path / "package" / "inner" / "deep.py"
    (tmp_path / "logs").mkdir()  # of the name of something that is imported, and no module
    own.write_text("import logs, torch\nimport part\nfrom utils.choices import MODELS\n")
    alone = program_contents(own)
    assert alone.keys() == {"program"}
    contents = {
        tmp_path / "part.py": "def later():\n    from package import inner\n",
        deep.parent / "__init__.py": "from . import deep\nfrom .. import broken, own\n",
        deep: "width = 1",
        tmp_path / "package" / "broken.py": "width =",
    }
    found = [alone]
    for path, content in (*contents.items(), (deep, "width = 22"), (tmp_path / "package" / "broken.py", "\0")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        found.append(program_contents(own))
        assert found[-1]["program"] == alone["program"]
    assert len({both.get("program_imports") for both in found}) == len(found)
    (tmp_path / "not_imported.py").touch()
    assert program_contents(own) == found[-1]
    assert imported_files(own) == contents.keys()
    assert (program_contents(MAIN), imported_files(MAIN)) == ({}, set())


def test_imported_files_that_have_changed_are_refused_where_they_were_recorded(copied, stopped, tmp_path, call_main):
    root, run = copied("R")
    own, part = tmp_path / "own.py", tmp_path / "part.py"
    own.write_text("import part")
    part.write_text("width = 1")
    record = json.loads((run / "run.json").read_text())
    command = train(root, f"NPZ:{stopped / 'a.npz'}", *STE, "--stop-after", "3")
    for path in run.glob("checkpoint*.pth"):
        save_tensors(load_tensors(path, "test") | program_contents(own), path)
    (run / "run.json").write_text(json.dumps(record | program_contents(own)))
    part.write_text("width = 22")
    outcome = call_main(*command, program=own)
    assert (outcome.code, "with other versions of the files that this program imports" in outcome.err) == (2, True)
    of_file = {"program": program_contents(own)["program"]}  # as earlier versions recorded it
    for path in run.glob("checkpoint*.pth"):
        state = load_tensors(path, "test")
        save_tensors({name: value for name, value in state.items() if name != "program_imports"}, path)
    (run / "run.json").write_text(json.dumps(record | of_file))
    assert call_main(*command, program=own).code == 0
