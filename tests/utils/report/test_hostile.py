"""Runs and files that came from elsewhere: what cannot be read is named, the rest is reported, nothing of it is obeyed."""

import csv
import json
import lzma
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hostile import ESCAPES, csv_text, hostile_csv_files, hostile_records, raw_characters, record_text
from parsed_page import Page
from run_folders import DIGITS, make_run, make_trial, settings_of

from utils.errors import BadInput
from utils.report import csv_files
from utils.report.csv_files import read_csv, write_csv
from utils.report.logs import ITERATION, read_log
from utils.report.page import page
from utils.report.reading import find_trials
from utils.report.report import make_report
from utils.run.evaluation import find_trained
from utils.run.folder.record import check_record, read_record
from utils.run.settings import TrainSettings

GOOD = "| ResNet20 Digits | dorefa SGD STE | 7 |"  # the good run in the report: its trial


@pytest.fixture
def report_beside_a_good_run(call_main, tmp_path):
    """report(*roots): reports on them and on a good run; returns the lines on standard error."""
    make_run(tmp_path / "good", DIGITS, trial=7)

    def report(*roots):
        outcome = call_main("report", tmp_path / "good", *roots)
        assert outcome.code == 0
        assert GOOD in outcome.out
        assert "Traceback" not in outcome.err
        assert raw_characters(outcome.out + outcome.err) == set()
        lines = outcome.err.splitlines()
        assert all(line.startswith("main.py: warning: ") for line in lines)
        assert all(len(line) < 2000 for line in lines)
        return lines

    return report


def hostile_folders(root, cases):
    for name, make in cases:
        path = make_run(root / name, DIGITS) / "run.json"
        path.unlink()
        make(path)
        yield path.parent


def test_hostile_records_are_named_and_the_rest_is_reported(report_beside_a_good_run, tmp_path, tally):
    folders = list(hostile_folders(tmp_path / "runs", hostile_records()))
    lines = report_beside_a_good_run(tmp_path / "runs")
    for folder in folders:
        assert [line for line in lines if f"/{folder.name}" in line], folder
    assert len(folders) >= 200
    tally("hostile record (run.json): named, the rest is reported", len(folders))


def test_hostile_records_are_refused_by_resume_and_evaluate(tmp_path):
    settings = TrainSettings(model="ResNet20", dataset="Digits", backward="STE")
    for folder in hostile_folders(tmp_path, hostile_records(seed=1)):
        with pytest.raises(BadInput, match=folder.name) as refused:
            check_record(folder, settings)
        assert len(str(refused.value)) < 2000
        try:
            find_trained(folder, None, None)
        except BadInput as error:
            assert folder.name in str(error)  # noqa: PT017 (some lack only what evaluation does not need)


def test_a_record_with_nothing_but_settings_and_state_is_one(tmp_path):
    """So that records of earlier commits, which lack fields, stay records."""
    settings = {"init_lr": 1e-3, "lr_adjust": "adaptive", "stop_after": None}
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings, "state": "failed"}))
    assert read_record(tmp_path)["settings"]["stop_after"] is None
    (tmp_path / "run.json").write_text(record_text([("result", {"loss": float("nan"), "top1": 10.0})]))
    assert read_record(tmp_path)["result"]["top1"] == 10.0


def test_hostile_csv_files_are_named_and_the_rest_is_reported(report_beside_a_good_run, tmp_path, tally, monkeypatch):
    monkeypatch.setattr(csv_files, "CSV_LIMIT", 1 << 20)
    cases = hostile_csv_files()
    (tmp_path / "csv").mkdir()
    for name, make in cases:
        make(tmp_path / "csv" / name)
    lines = report_beside_a_good_run(*(tmp_path / "csv" / name for name, _ in cases))
    for name, _ in cases:
        assert [line for line in lines if name in line], name
    assert len(cases) >= 60
    tally("hostile CSV file: named, the rest is reported", len(cases))


def test_a_csv_file_that_decompresses_to_too_much_is_refused_before_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "CSV_LIMIT", 4 << 20)
    (tmp_path / "bomb.csv.xz").write_bytes(lzma.compress(bytes(64 << 20), preset=0))
    tracemalloc.start()
    with pytest.raises(BadInput, match=r"bomb\.csv\.xz cannot be read: it decompresses to more than 4 MiB"):
        read_csv(tmp_path / "bomb.csv.xz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_log_of_any_size_is_refused_without_being_read(tmp_path):
    with open(tmp_path / "loss.txt", "wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    with pytest.raises(BadInput, match=r"loss\.txt cannot be read: it is larger than 64 MiB"):
        read_log(tmp_path / "loss.txt", ITERATION)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 256 << 20


@pytest.mark.parametrize("change", [("model", "\ufeffmodel"), (",", ";"), (",", "\t")])
def test_a_byte_order_mark_and_other_separators_are_understood(change, tmp_path):
    (tmp_path / "runs.csv").write_text(csv_text().replace(*change), newline="\r\n")
    (trial,) = read_csv(tmp_path / "runs.csv")
    assert (trial.cell, trial.number, trial.made_by, trial.test_acc.tolist()) == (DIGITS, 1, "cpu", [50.0])


def test_missing_columns_are_named_with_those_found(tmp_path):
    (tmp_path / "runs.csv").write_text("net;epoch;accuracy\n")
    with pytest.raises(BadInput, match=r"no column trial, test_acc, train_loss, train_acc; its columns are net, epoch, accuracy"):
        read_csv(tmp_path / "runs.csv")


def test_runs_behind_links_are_found_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    make_run(elsewhere / "deep" / "one", DIGITS, trial=1)
    make_run(root / "z-real" / "two", DIGITS, trial=2)
    (root / "a-link").symlink_to(elsewhere)
    (root / "b-link").symlink_to(elsewhere / "deep" / "one")
    (root / "a-link-to-its-own").symlink_to(root / "z-real")
    (root / "up").symlink_to(root)
    (root / "z-real" / "two" / "loop").symlink_to(root)
    (root / "z-real" / "itself").symlink_to(root / "z-real" / "itself")
    (root / "gone").symlink_to(tmp_path / "no-such-mount")
    trials, problems = find_trials([root, root / "up" / "a-link"])
    assert sorted((trial.number, str(trial.source)) for trial in trials) == [
        (1, str(root / "a-link" / "deep" / "one")),
        (2, str(root / "z-real" / "two")),
    ]
    gone, itself = sorted(problems)
    assert "gone cannot be accessed: No such file" in gone
    assert "itself cannot be accessed: Too many levels" in itself


def test_folders_that_cannot_be_looked_at_are_named(report_beside_a_good_run, tmp_path, forbid):
    make_run(tmp_path / "runs" / "locked" / "one", DIGITS)
    make_run(tmp_path / "runs" / "open", DIGITS)
    forbid(tmp_path / "runs" / "locked", "scandir")
    assert report_beside_a_good_run(tmp_path / "runs") == [
        f"main.py: warning: {tmp_path}/runs/locked cannot be accessed: Permission denied"
    ]
    forbid(tmp_path / "runs" / "locked", "stat", "lstat", "open")
    (line,) = report_beside_a_good_run(tmp_path / "runs" / "locked" / "one")
    assert f"{tmp_path}/runs/locked/one is neither a folder nor a CSV file that can be read: Permission denied" in line


@pytest.mark.parametrize("root", ["{file}/x", "{file}/x.csv", "{file}", "{root}/absent"])
def test_a_root_that_is_none_is_named(root, report_beside_a_good_run, tmp_path):
    (line,) = report_beside_a_good_run(root.format(file=__file__, root=tmp_path))
    assert "is neither a folder nor a CSV file that can be read" in line


NAMES = (
    r"$\frac{$",
    r"\$x$",
    "_hidden",
    '=HYPERLINK("http://x";"y")',
    "@SUM(1+1)",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "  =1+1",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "[click](http://evil.example)",
    "![picture](https://evil.example/x.png)",
    "`code` & &lt;b&gt;",
    "a|b\\|c\\",
    "50 % of {all}, ~x^2 #1",
)


def test_names_are_shown_and_not_obeyed(call_main, tmp_path, tally):
    for number, name in enumerate(NAMES, 1):
        settings = settings_of(DIGITS, number, quantizer=name, exp_spec=name, update_order=name, more=[name])
        make_run(tmp_path / f"runs/{number}", DIGITS, epochs=2, settings=settings)
        make_run(tmp_path / f"runs/{number}-learned", epochs=2, settings=settings | {"backward": "MultiFC", "more": "off"})
    out = tmp_path / "out"
    outcome = call_main("report", tmp_path / "runs", "--out", out)
    assert (outcome.code, len(outcome.err.splitlines())) == (0, 1), outcome.err
    text = (out / "report.md").read_text()
    assert text.startswith(outcome.out)
    shown = Page((out / "report.html").read_text())
    tags = [tag for tag, _ in shown.elements]
    assert (tags.count("script"), tags.count("img"), tags.count("svg")) == (1, 0, 3)
    assert len(shown.ids()) == len(set(shown.ids()))
    for name in NAMES:
        assert any(f"{name} SGD MultiFC" in field for table in shown.tables for row in table for field in row)
        assert shown.text.count(name) > 3  # in a table, the drawing and the settings
    for row in re.findall(r"^\| .* \|$", text, flags=re.MULTILINE):
        bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", row)  # without what Markdown takes literally
        assert not set(bare) & set("<[`&")
        assert "://" not in bare
    for section in text.split("## ")[1:]:
        widths = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in re.findall(r"^\|.*\|$", section, flags=re.MULTILINE)}
        assert len(widths) <= 1
    checked = 0
    for path in out.glob("*.csv"):
        with open(path, newline="") as file:
            for field in (field for row in csv.reader(file) for field in row):
                number = re.fullmatch(r"-?[\d.]+(e-?\d+)?", field)
                assert number or not field.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
                checked += field.startswith("'")
    assert checked >= 10
    assert (out / "curves.png").stat().st_size
    assert "'" not in {trial.cell.quantizer[0] for trial in read_csv(out / "runs.csv.xz")}
    assert {trial.cell.quantizer for trial in read_csv(out / "runs.csv.xz")} == set(NAMES)
    tally("name with HTML, a link, mathematics or a formula: shown as it is", len(NAMES))


def test_pictures_of_extreme_numbers_are_drawn(tmp_path):
    losses = {"STE": (1e308, -1e308, 1.7e308), "FC-Grad": (np.nan, np.nan, np.nan), "MultiFC": (0, 1e-320, 1e300)}
    trials = [make_trial([50.0, 60.0, 70.0], DIGITS._replace(backward=name)) for name in losses]
    made = [replace(trial, train_loss=np.array(losses[trial.cell.backward], dtype=float)) for trial in trials]
    write_csv(made, tmp_path / "runs.csv")
    make_report([tmp_path / "runs.csv"])[0].write(tmp_path / "out")
    assert (tmp_path / "out" / "curves.svg").stat().st_size


def test_control_characters_never_reach_the_terminal_or_the_report(call_main, tmp_path, tally):
    for number, escape in enumerate(ESCAPES):
        text = f"before{escape}after"
        places = {"error": text, "device": text, "versions": {"torch": text}, "git": {"commit": escape * 3}}
        settings = settings_of(DIGITS, 1, dataset=f"NPZ:/{text}.npz", exp_spec=text)
        make_run(tmp_path / f"runs/{number}", settings=settings, state="failed", **places)
        make_run(tmp_path / f"runs/{number}-other", settings=settings | {"exp_spec": "x", "trial": 2}, **places)
        bad = make_run(tmp_path / f"runs/{number}-bad", DIGITS) / "run.json"
        bad.write_text(json.dumps({"state": text, "settings": {text: text}}))
        with open(tmp_path / f"{number}.csv", "w", errors="replace", newline="") as file:
            csv.writer(file).writerows([["model", "epoch", text], [text, text]])
    roots = [tmp_path / "runs", *(tmp_path / f"{number}.csv" for number in range(len(ESCAPES)))]
    (tmp_path / "runs" / "bad\x1b[31m\n").symlink_to("nothing")
    outcome = call_main("report", *roots)
    assert outcome.code == 0
    assert raw_characters(outcome.out + outcome.err) == set()
    report = make_report(roots)[0]
    for table in report.tables:
        table.write(tmp_path)
        for suffix in ("csv", "tex"):
            assert raw_characters((tmp_path / f"{table.name}.{suffix}").read_text()) == set()
    made = page([replace(section, pictures=()) for section in report.sections], tmp_path)
    assert raw_characters(made) == set()
    assert made.count("before") >= 6 * len(ESCAPES)  # two runs each: the data set, the error, and settings
    assert outcome.out.count("before") >= 2 * len(ESCAPES)
    assert outcome.err.count("before") >= 2 * len(ESCAPES) - 2  # a 0 and a line's end end a CSV file's head otherwise
    assert "bad\\x1b[31m\\n cannot be accessed" in outcome.err
    assert len(ESCAPES) >= 12
    tally("escape sequence in names, errors and settings: printed as text", len(ESCAPES))
