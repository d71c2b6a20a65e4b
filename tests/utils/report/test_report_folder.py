"""A report's folder holds the files of one report; what no report wrote stays."""

import json

import pytest
from run_folders import CELL, DIGITS, make_run, published_run

from utils.report.report import make_report
from utils.report.report_folder import LIST, move_report


def write(tmp_path, *names):
    """A report of these files, as `move_report` takes it."""
    written = tmp_path / "written"
    written.mkdir(exist_ok=True)
    for name in names:
        (written / name).write_text(f"new {name}")
    move_report(written, tmp_path / "out")
    return {path.name for path in (tmp_path / "out").iterdir()}


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_files_of_the_report_before_are_removed_and_others_are_not(tmp_path, out):
    (out / "mine.csv").write_text("mine")
    write(tmp_path, "report.md", "table1.csv", "curves.png", "runs.csv.xz")
    assert json.loads((out / LIST).read_text()) == ["curves.png", "report.md", "runs.csv.xz", "table1.csv"]
    (out / "table1.csv").unlink()
    (out / "curves.png").unlink()
    (out / "curves.png").symlink_to(out / "mine.csv")
    assert write(tmp_path, "report.md", "table2.csv") == {"mine.csv", "report.md", "table2.csv", LIST}
    assert (out / "report.md").read_text() == "new report.md"
    assert (out / "mine.csv").read_text() == "mine"


NOT_REMOVED = ["../beside.csv", "inner/file.csv", "inner", "..", ".", "inner.csv", "net.pth", "run.json"]


@pytest.mark.parametrize("listed", [[*NOT_REMOVED, "", "\0.csv", "a\n.csv", 3, None, []], {"kept.csv": 1}, "kept.csv", 7])
def test_a_list_removes_nothing_elsewhere_and_nothing_that_no_report_writes(listed, tmp_path, out):
    for folder in ("inner", "inner.csv"):
        (out / folder).mkdir()
    paths = [tmp_path / "beside.csv", *(out / name for name in ("inner/file.csv", "net.pth", "run.json", "kept.csv", "a\n.csv"))]
    for path in paths:
        path.write_text("kept")
    (out / LIST).write_text(json.dumps([str(path) for path in paths] + listed if isinstance(listed, list) else listed))
    write(tmp_path, "report.md")
    assert [path.read_text() for path in paths] == ["kept"] * len(paths)
    assert (out / "inner.csv").is_dir()


@pytest.mark.parametrize("text", ["", "[", '["kept.csv"', "[" * 100_000, "\udcff"])
def test_a_list_that_cannot_be_read_removes_nothing(text, tmp_path, out):
    (out / LIST).write_bytes(text.encode(errors="surrogateescape"))
    (out / "kept.csv").write_text("kept")
    assert write(tmp_path, "report.md") == {"kept.csv", "report.md", LIST}
    assert json.loads((out / LIST).read_text()) == ["report.md"]


def test_a_smaller_report_leaves_no_table_of_the_larger_one(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.report.page.save_pictures", lambda sections, folder: None)  # drawing takes seconds
    monkeypatch.setattr("utils.report.page.page", lambda sections, folder: "")
    published_run(tmp_path / "a", CELL, 1)
    make_run(tmp_path / "b", DIGITS)
    make_report([tmp_path / "a"])[0].write(tmp_path / "out")
    assert (tmp_path / "out" / "table1.csv").exists()
    make_report([tmp_path / "b"])[0].write(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.md", "report.html", "errata.csv", "runs.csv.xz", "other_runs.csv", "other_runs.tex", LIST)
    }
