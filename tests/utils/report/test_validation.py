"""Validation in the report: the test accuracy at the best validation epoch, in columns that are there where a run has one."""

import csv

import numpy as np
import pytest
from run_folders import CELL, DIGITS, make_run, make_trial, rows_of, settings_of

from utils.errors import BadInput
from utils.report.csv_files import read_csv, write_csv
from utils.report.reading import read_folder
from utils.report.report import Report, make_report
from utils.report.statistics import at_best_validation, statistics
from utils.report.trials import group_trials
from utils.report.validation import AT_BEST

LOOKED = "runs have no validation images: test accuracy was evaluated after every epoch"


def validated_run(path, cell, trial, val_acc, **more):
    """A run's folder whose epoch k has the test accuracy 50 + k, with validation accuracies."""
    epochs = len(val_acc)
    make_run(path, cell, trial, epochs, settings=settings_of(cell, trial, epochs, validation=500), **more)
    (path / "val-acc.txt").write_text("".join(f"{k}, {value}\n" for k, value in enumerate(val_acc, 1)))
    return path


def test_the_first_best_epoch_counts():
    trials = [
        make_trial([60, 61, 62], val_acc=np.array([50.0, 70.0, 70.0])),
        make_trial([60, 61, 65], number=2, val_acc=np.array([50.0, 40.0, 80.0])),
    ]
    assert [at_best_validation(trial) for trial in trials] == [61, 65]
    found = statistics(trials)
    assert (found.best_val, found.at_best_val) == (75, (61, 65))
    mixed = statistics([*trials, make_trial([1, 2, 3], number=3)])
    assert np.isnan(mixed.best_val)
    assert mixed.at_best_val == ()


def test_the_report_shows_it_beside_the_papers_statistic(tmp_path):
    validated_run(tmp_path / "1", DIGITS, 1, [10, 30, 20])
    validated_run(tmp_path / "2", DIGITS, 2, [10, 20, 30])
    markdown = make_report([tmp_path])[0].markdown()
    assert LOOKED not in markdown
    assert [row[AT_BEST] for row in rows_of(markdown, "Other runs")] == ["52.00", "53.00"]
    (row,) = rows_of(markdown, "Other cells")
    assert (row[AT_BEST], row["last 10 mean (variance)"]) == ("52.50 (52.00, 53.00)", "52.000 (0.667)")
    assert f"{AT_BEST}: test accuracy at the first epoch" in markdown
    make_run(tmp_path / "3", DIGITS, 3, 3)
    report = make_report([tmp_path])[0]
    markdown = report.markdown()
    assert f"1 of 3 {LOOKED}" in markdown
    assert [group.label for group in report.groups] == ["validation 500", ""]  # never averaged together
    assert [row[AT_BEST] for row in rows_of(markdown, "Other runs")] == ["52.00", "53.00", ""]


def test_without_validation_there_is_no_column(tmp_path):
    make_run(tmp_path / "1", DIGITS)
    make_run(tmp_path / "2", DIGITS, 2)
    markdown = make_report([tmp_path])[0].markdown()
    assert f"2 of 2 {LOOKED}" in markdown
    assert AT_BEST not in markdown


def test_in_a_published_cell_it_is_a_deviation_that_is_named(tmp_path):
    trials = []
    for number in (1, 2):
        acc = np.full(100, 80.0 + number)
        settings = settings_of(CELL, number, 100, validation=5000)
        trials.append(make_trial(acc, CELL, number, settings=settings, val_acc=np.arange(100.0)))
    report = Report(trials, *group_trials(trials, lambda cell: {"epochs": 100, "validation": None}))
    row = rows_of(report.markdown(), "Table 1 ")[0]
    assert row["method"] == "dorefa SGD STE (validation 5000)"
    assert row[f"ours {AT_BEST}"] == "81.50 (81.00, 82.00)"
    assert rows_of(report.markdown(), "Table 1 ")[1][f"ours {AT_BEST}"] == ""
    table = next(table for table in report.tables if table.name == "table1")
    table.write(tmp_path)
    with open(tmp_path / "table1.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["at_best_val"], first["at_best_val_of_each"], first["best_val"]) == ("81.5", "81.00, 82.00", "99")


def test_validation_accuracies_go_into_a_csv_file_and_back(tmp_path):
    made = [
        make_trial([60, 61], val_acc=np.array([1 / 3, 2 / 3]), settings=settings_of(CELL, 1, 2, validation=500)),
        make_trial([60, 61], number=2),
    ]
    write_csv(made, tmp_path / "runs.csv")
    back = read_csv(tmp_path / "runs.csv")
    np.testing.assert_array_equal(back[0].val_acc, made[0].val_acc)
    assert [trial.validated for trial in back] == [True, False]
    assert len(back[1].val_acc) == 0
    write_csv(made[1:], tmp_path / "plain.csv")
    assert "val_acc" not in (tmp_path / "plain.csv").read_text()
    text = (tmp_path / "runs.csv").read_text()
    for number, wrong, words in ((1 / 3, "101", "val_acc must be a percentage"), (2 / 3, "", "not known for every epoch")):
        (tmp_path / "bad.csv").write_text(text.replace(repr(number), wrong))
        with pytest.raises(BadInput, match=words):
            read_csv(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1, 10\n2, 20\n", "val-acc.txt has 2 rows, where run.json says 3"),
        ("1, 10\n2, 200\n3, 30\n", "val-acc.txt: row 2 is '2, 200'"),
        (None, "val-acc.txt has 0 rows"),
    ],
)
def test_damaged_validation_accuracies_are_named(content, words, tmp_path):
    run = validated_run(tmp_path / "1", DIGITS, 1, [10, 30, 20])
    (run / "val-acc.txt").unlink() if content is None else (run / "val-acc.txt").write_text(content)
    with pytest.raises(BadInput, match=words):
        read_folder(run)


def test_an_unfinished_runs_rows_beyond_its_checkpoint_are_ignored(tmp_path):
    run = validated_run(tmp_path / "1", DIGITS, 1, [10, 30, 20], state="running")
    with open(run / "val-acc.txt", "a") as file:
        file.write("4, 99\n")
    assert read_folder(run).val_acc.tolist() == [10, 30, 20]
