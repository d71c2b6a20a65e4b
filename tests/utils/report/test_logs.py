"""Rows of log files that no recorder writes are named with file and row, and their run is in no mean."""

import numpy as np
import pytest
from run_folders import CELL, make_run, write_logs

from utils.report.logs import EPOCH, ITERATION, read_log
from utils.report.reading import find_trials

PUBLISHED = "ResNet20-CIFAR10/runs-Quant-Multiple/dorefa/Baseline-dorefa-optimizer-SGD-1bits-trial-2"
EPOCHS, PER_EPOCH = 12, 3
ROW = 5  # of each file, is damaged

DAMAGE = {  # what a file's rows become, and the number of the row that is named
    "cut off, without its newline": lambda rows: (b"".join(rows)[:-2], len(rows)),
    "the newline alone is missing": lambda rows: (b"".join(rows)[:-1], len(rows)),
    "duplicated": lambda rows: (b"".join([*rows[:ROW], *rows[ROW - 1 :]]), ROW + 1),
    "the last one duplicated": lambda rows: (b"".join([*rows, rows[-1]]), len(rows) + 1),
    "lost": lambda rows: (b"".join([*rows[: ROW - 1], *rows[ROW:]]), ROW),
    "the first one lost": lambda rows: (b"".join(rows[1:]), 1),
    "reordered": lambda rows: (b"".join([*rows[: ROW - 1], rows[ROW], rows[ROW - 1], *rows[ROW + 1 :]]), ROW),
    "reversed": lambda rows: (b"".join(reversed(rows)), 1),
    "a comment": lambda rows: _with(rows, b"# a note\n"),
    "a comment behind it": lambda rows: _with(rows, rows[ROW - 1][:-1] + b" # a note\n"),
    "an empty row": lambda rows: _with(rows, b"\n"),
    "three columns": lambda rows: _with(rows, rows[ROW - 1][:-1] + b", 3.36\n"),
    "a row appended to the next": lambda rows: _with(rows, rows[ROW - 1][:-1] + rows[ROW]),
    "one column": lambda rows: _with(rows, rows[ROW - 1].split(b", ")[1]),
    "CRLF": lambda rows: (b"".join(rows).replace(b"\n", b"\r\n"), 1),
    "CRLF in one row": lambda rows: _with(rows, rows[ROW - 1][:-1] + b"\r\n"),
    "nan": lambda rows: _with(rows, rows[ROW - 1].split(b", ")[0] + b", nan\n"),
    "inf": lambda rows: _with(rows, rows[ROW - 1].split(b", ")[0] + b", inf\n"),
    "beyond float64": lambda rows: _with(rows, rows[ROW - 1].split(b", ")[0] + b", 1e999\n"),
    "another count": lambda rows: _with(rows, b"7" + rows[ROW - 1]),
    "a semicolon": lambda rows: _with(rows, rows[ROW - 1].replace(b",", b";")),
    "a word": lambda rows: _with(rows, rows[ROW - 1].split(b", ")[0] + b", low\n"),
    "bytes": lambda rows: _with(rows, b"\xff\xfe\x00\n"),
    "an escape sequence": lambda rows: _with(rows, b"\x1b[2J, 3\n"),
}
NO_PERCENT = {"5500": b"5500", "100.01": b"100.01", "negative": b"-1"}


def _with(rows, row):
    return b"".join([*rows[: ROW - 1], row, *rows[ROW:]]), ROW


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("name", ["test-acc", "loss", "train-acc"])
def test_damaged_rows_are_named(name, recorded, tmp_path, tally):
    cases = dict(DAMAGE)
    if name != "loss":
        for case, value in NO_PERCENT.items():
            cases[case] = lambda rows, value=value: _with(rows, rows[ROW - 1].split(b", ")[0] + b", " + value + b"\n")
    good = make_run(tmp_path / "good", CELL)
    for number, (case, damage) in enumerate(cases.items()):
        root = tmp_path / str(number)
        if recorded:
            run = make_run(root / "bad", CELL, trial=2, epochs=EPOCHS, per_epoch=PER_EPOCH)
        else:
            run = write_logs(root / PUBLISHED, np.full(EPOCHS, 50.0), np.ones(EPOCHS), np.full(EPOCHS, 40.0), PER_EPOCH)
        path = run / f"{name}.txt"
        content, row = damage(path.read_bytes().splitlines(keepends=True))
        path.write_bytes(content)
        trials, problems = find_trials([tmp_path / "good", root])
        assert [trial.source for trial in trials] == [good], case
        (problem,) = problems
        assert problem.startswith(f"{path}: row {row}"), (case, problem)
        assert problem.isprintable(), case
        tally("damaged rows in a log file: named with file and row, the run is in no mean")


def test_the_issues_row(tmp_path):
    """A row that was cut from 50 to 5 is no accuracy of 5 %."""
    make_run(tmp_path / "a", epochs=2, per_epoch=1)
    (tmp_path / "a" / "test-acc.txt").write_text("1, 50\n2, 5")
    assert find_trials([tmp_path]) == (
        [],
        [f"{tmp_path / 'a' / 'test-acc.txt'}: row 2, '2, 5', is cut off: it does not end with a newline"],
    )
    (tmp_path / "a" / "test-acc.txt").write_text("1, 50\n2, 5500\n")
    (problem,) = find_trials([tmp_path])[1]
    assert problem.endswith("test-acc.txt: row 2 is '2, 5500', not \"2, \" and a number from 0 to 100")


@pytest.mark.parametrize("state", ["running", "failed"])
def test_what_follows_the_recorded_rows_of_a_run_that_is_not_over_is_not_read(state, tmp_path):
    run = make_run(tmp_path / "a", epochs=2, state=state)
    for name in ("loss", "train-acc", "test-acc"):
        with open(run / f"{name}.txt", "a") as log:
            log.write("3, 4.2" if name == "test-acc" else "6, 1\n7, 4.")
    ((trial,), problems) = find_trials([tmp_path])
    assert problems == []
    np.testing.assert_array_equal(trial.test_acc, [51, 52])


def test_a_finished_run_has_the_rows_of_its_epochs(tmp_path):
    run = make_run(tmp_path / "a", epochs=2)
    with open(run / "test-acc.txt", "a") as log:
        log.write("3, 99\n")
    (problem,) = find_trials([tmp_path])[1]
    assert problem == f"{run / 'test-acc.txt'} has 3 rows, where run.json says 2 (2 epochs)"


def test_every_row_that_the_recorder_writes_is_read(tmp_path):
    random = np.random.default_rng(0)
    values = [0.0, 100.0, 1e-6, 1e-300, 123456789.0, -3.0, *(random.random(200) * 10.0 ** random.integers(-12, 12, 200))]
    path = tmp_path / "loss.txt"
    path.write_text("".join(f"{t}, {value:.8g}\n" for t, value in enumerate(values)))
    np.testing.assert_array_equal(read_log(path, ITERATION), [float(f"{value:.8g}") for value in values])
    path.write_text("1, 0\n2, 100\n")
    np.testing.assert_array_equal(read_log(path, EPOCH, percent=True), [0, 100])
    path.write_text("")
    assert len(read_log(path, EPOCH)) == len(read_log(tmp_path / "absent.txt", EPOCH)) == 0
