"""The settings in a run's checkpoint and record, and its program by content, must be the command's."""

import json

import pytest
from resumed import STE, files_of, record_of, train_little

from utils import MAIN
from utils.run.folder.checkpoint import load_tensors, save_tensors
from utils.run.identity import imported_files, program_contents

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


def test_without_run_json_the_checkpoint_says_what_the_run_is(copied, ste_data, refused, call_main):
    root, run = copied("no record")
    (run / "run.json").unlink()
    for name in ("seed", "init_lr", "weight_decay", "batch_size", "epochs", "drop_last"):  # that are not in the folder's name
        words = [f"{run}: its checkpoint is of a run that has other settings: ", name, " there and ", "--overwrite starts over"]
        kind = "run.json deleted and other settings given: refused, nothing written"
        refused(train_little(root, ste_data, *STE, *OTHER_SETTINGS[name]), words, root, kind)
    outcome = call_main(*train_little(root, ste_data, *STE))
    assert outcome.code == 0, outcome.err
    assert "resumed after 3 iterations" in outcome.out


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_the_checkpoint_of_another_run_is_refused(name, copied, ste_data, refused):
    """As if it had been copied from a run with another setting."""
    root, run = copied("foreign")
    for path in run.glob("checkpoint*.pth"):
        state = load_tensors(path, "test")
        value = state["settings"][name]
        state["settings"][name] = "other" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1
        save_tensors(state, path)
    words = [f"{run}: its checkpoint is of a run that has other settings: {name} "]
    kind = "another run's checkpoint in the folder: refused, nothing written"
    refused(train_little(root, ste_data, *STE), words, root, kind)
    refused(["evaluate", run], words, root, kind)


@pytest.mark.parametrize("name", OTHER_SETTINGS)
def test_an_edited_record_is_not_evaluated(name, copied, refused):
    root, run = copied("edited")
    record = record_of(run)
    value = record["settings"][name]
    edited = {"bits": 2, "quantizer": "BWN", "optimizer": "Adam"}.get(name, (not value) if isinstance(value, bool) else 7)
    record["settings"][name] = edited
    (run / "run.json").write_text(json.dumps(record))
    words = [f"other settings: {name} {value} there and {edited} here"]
    refused(["evaluate", run], words, root, "run.json edited: not evaluated")


def test_an_edited_program_of_ones_own_is_refused(copied, ste_data, tmp_path, call_main, tally):
    root, run = copied("R")
    own, moved = tmp_path / "own.py", tmp_path / "elsewhere.py"
    for path in (own, moved):
        path.write_text("'''The first version.'''")
    record = record_of(run)
    assert "program" not in record  # main.py's commit is there
    record |= program_contents(own)
    (run / "run.json").write_text(json.dumps(record))
    for path in run.glob("checkpoint*.pth"):
        save_tensors(load_tensors(path, "test") | program_contents(own), path)
    command = train_little(root, ste_data, *STE, "--stop-after", "3")
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
    assert record_of(run)["program"] == program_contents(moved)["program"]


def test_the_files_that_a_program_imports_are_a_part_of_it(tmp_path):
    own, deep = tmp_path / "own.py", tmp_path / "package" / "inner" / "deep.py"
    (tmp_path / "logs").mkdir()  # of the name of something that is imported, and no module
    own.write_text("import logs, torch\nimport part\nfrom utils.choices import MODELS\n")
    alone = program_contents(own)
    assert alone.keys() == {"program"}
    contents = {
        tmp_path
        / "part.py": "def later():\n    from package import inner\n    importlib.import_module('late')\n    __import__('q')\n",
        tmp_path / "late.py": "from stars import *\n",
        tmp_path / "q.py": "import importlib\nimportlib.import_module(name)\n",
        tmp_path / "stars" / "one.py": "",
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


def test_imported_files_that_have_changed_are_refused_where_they_were_recorded(copied, ste_data, tmp_path, call_main):
    root, run = copied("R")
    own, part = tmp_path / "own.py", tmp_path / "part.py"
    own.write_text("import part")
    part.write_text("width = 1")
    record = record_of(run)
    command = train_little(root, ste_data, *STE, "--stop-after", "3")
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
