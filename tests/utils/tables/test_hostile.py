"""tables: manifests and records that came from elsewhere end in one line, and nothing of them is obeyed."""

import re

import pytest
from hostile import ESCAPES, MANIFEST, hostile_manifests, hostile_records, raw_characters, record_text
from parsed import parsed

from utils.errors import BadInput
from utils.tables import scheduler, selection
from utils.tables.manifest import read_manifest
from utils.tables.options import Selection
from utils.tables.selection import State, select_runs, status_table


@pytest.fixture
def status(call_main, tmp_path):
    """status(manifest, *flags): main.py tables status of its table "one", which has one cell and two trials."""

    def call(manifest, *flags):
        where = ["--results-root", tmp_path / "R", "--pretrained-root", "none"]
        return call_main("tables", "status", "one", "--manifest", manifest, *where, *flags)

    return call


def test_hostile_manifests_are_one_line(status, tmp_path, tally):
    cases = hostile_manifests()
    for name, make in cases:
        make(tmp_path / name)
        outcome = status(tmp_path / name)
        (line,) = outcome.err.splitlines()
        assert (outcome.code, outcome.out) == (2, ""), name
        assert line.startswith(f"main.py: error: --manifest {tmp_path / name}")
        assert raw_characters(line) == set()
        assert len(line) < 2000
    tally("hostile manifest: one line, exit code 2", len(cases))


def test_hostile_records_are_refused_by_tables(tmp_path):
    """Each in the place of a table's run: no state, count or table of them raises."""
    (tmp_path / "one.toml").write_text(MANIFEST)
    cases = hostile_records()
    flags = ["--results-root", str(tmp_path / "R"), "--pretrained-root", "none", "--trials", str(len(cases))]
    runs = select_runs(Selection.of(parsed(["tables", "status", "one", "--manifest", str(tmp_path / "one.toml"), *flags])))
    for run, (_, make) in zip(runs, cases, strict=True):
        run.path.mkdir(parents=True)
        make(run.path / "run.json")
    assert {run.state()[0] for run in runs} == {State.REFUSED}
    assert sum(run.epochs()[0] for run in runs) <= 3 * len(runs)
    table = status_table(runs)
    assert raw_characters(table) == set()
    assert all(str(run.path) in table for run in runs)


def test_a_thousand_trials_and_a_hundred_thousand_runs_are_the_limit(status, tmp_path, monkeypatch):
    (tmp_path / "one.toml").write_text(MANIFEST)
    assert "from 1 to 1000" in status(tmp_path / "one.toml", "--trials", "1001").err
    monkeypatch.setattr(selection, "MAX_RUNS", 5)
    (line,) = status(tmp_path / "one.toml", "--trials", "6").err.splitlines()
    assert "these are 6 runs; at most 5" in line


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "one.toml").write_text("\ufeff" + MANIFEST)
    assert list(read_manifest(tmp_path / "one.toml", "logs")) == ["one"]


@pytest.mark.parametrize("flag", ["--manifest", "--pretrained-root", "--results-root"])
@pytest.mark.parametrize("path", ["{file}/below/a/file", "{root}/" + "x" * 300, "{root}/locked/there"])
def test_paths_that_cannot_be_looked_at_are_one_line(flag, path, status, tmp_path, monkeypatch, forbid):
    (tmp_path / "one.toml").write_text(MANIFEST)
    (tmp_path / "locked").mkdir()
    forbid(tmp_path / "locked", "stat", "lstat", "open")
    outcome = status(tmp_path / "one.toml", flag, path.format(file=__file__, root=tmp_path))
    (line,) = outcome.err.splitlines()
    assert (outcome.code, outcome.out) == (2, "")
    assert re.match(f"main.py( tables)?: error: (argument )?{flag}:? ", line)
    assert any(
        why in line for why in ("Not a directory", "File name too long", "Permission denied", "each name in it of at most 255")
    )


def test_a_results_root_that_cannot_be_looked_at_stops_a_run(call_main, tmp_path, forbid, tiny_set):
    forbid(tmp_path / "locked", "stat", "lstat")
    train = ["train", "-m", "ResNet8", "-d", tiny_set, "--pretrained", "none"]
    outcome = call_main(*train, "--results-root", tmp_path / "locked" / "R")
    (line,) = outcome.err.splitlines()
    assert outcome.code == 2
    assert "--results-root: " in line
    assert "cannot be accessed: Permission denied" in line


def test_control_characters_never_reach_the_terminal(status, tmp_path, tally, capfd):
    (tmp_path / "one.toml").write_text(MANIFEST)
    flags = ["--results-root", str(tmp_path / "R"), "--pretrained-root", "none", "--trials", str(len(ESCAPES))]
    runs = select_runs(Selection.of(parsed(["tables", "status", "one", "--manifest", str(tmp_path / "one.toml"), *flags])))
    progress = scheduler.Progress(runs)
    for run, escape in zip(runs, ESCAPES, strict=True):
        run.path.mkdir(parents=True)
        changes = [("state", "failed"), ("error", f"before{escape}after"), ("settings", run.settings.as_dict())]
        (run.path / "run.json").write_text(record_text(changes))
        (run.path / "output.log").write_bytes(b"old\n" * 50_000 + f"before{escape}after\n\n".encode(errors="replace"))
        progress.conclude(run, "failed", scheduler.last_line(run))
    progress.close()
    outcome = status(tmp_path / "one.toml", "--trials", len(ESCAPES))
    assert outcome.code == 0
    assert outcome.out.count("before") == len(ESCAPES)
    said = capfd.readouterr()
    assert raw_characters(outcome.out + outcome.err + said.out) == set()
    tally("escape sequence in a table's errors and logs: printed as text", 2 * len(ESCAPES))


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir(), lambda path: None])
def test_the_last_line_of_no_log(make, tmp_path):
    make(tmp_path / "output.log")

    class Run:
        path = tmp_path

    assert any(word in scheduler.last_line(Run) for word in ("cannot be read: ", "no output"))


def test_a_table_called_all_is_refused(tmp_path):
    (tmp_path / "one.toml").write_text(MANIFEST.replace("tables.one", "tables.all"))
    with pytest.raises(BadInput, match="stands for every table"):
        read_manifest(tmp_path / "one.toml", "logs")
