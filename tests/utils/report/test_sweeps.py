"""Sweeps in the report: what belongs together, ties, and when no value is named."""

import numpy as np
from run_folders import CELL, DIGITS, make_run, make_trial, rows_of, settings_of

from utils.report.csv_files import read_csv, write_csv
from utils.report.published import published_settings
from utils.report.report import Report, make_report
from utils.report.trials import group_trials


def trial(lr, val, number=1, base="", cell=DIGITS, validation=500, epochs=2, **changes):
    spec = f"{base}-grid-init-lr-{lr}".removeprefix("-")
    settings = settings_of(cell, number, epochs, init_lr=lr, exp_spec=spec, validation=validation, **changes)
    val_acc = np.array([val, *[1.0] * (epochs - 1)]) if validation else np.empty(0)
    return make_trial([60.0, *[50.0] * (epochs - 1)], cell, number, settings=settings, val_acc=val_acc)


def choices(*trials):
    report = Report(list(trials), *group_trials(trials, lambda cell: None))
    return [(row["run"], row["value"], row["n"], row["by validation"]) for row in rows_of(report.markdown(), "Sweeps")]


STE = "dorefa SGD STE"


def test_trials_are_averaged_and_a_tie_names_both():
    trials = [trial(0.1, 50, 1), trial(0.1, 60, 2), trial(0.2, 55, 1), trial(0.2, 55, 2), trial(0.3, 54.9)]
    assert choices(*trials) == [
        (STE, "init_lr 0.1", "2", "best"),
        (STE, "init_lr 0.2", "2", "best"),
        (STE, "init_lr 0.3", "1", ""),
    ]


def test_sweeps_of_other_cells_and_specs_are_apart():
    other = DIGITS._replace(quantizer="BWN")
    trials = [
        trial(0.1, 50),
        trial(0.2, 60),
        trial(0.1, 90, base="short"),
        trial(0.2, 80, base="short"),
        trial(0.3, 70, cell=other),
    ]
    assert choices(*trials) == [
        (STE, "init_lr 0.1", "1", ""),
        (STE, "init_lr 0.2", "1", "best"),
        (f"{STE} (short)", "init_lr 0.1", "1", "best"),
        (f"{STE} (short)", "init_lr 0.2", "1", ""),
        ("BWN SGD STE", "grid-init-lr-0.3", "1", "the only value so far"),
    ]


def test_a_published_cells_short_sweep_has_its_own_best_value():
    """As of runs with other epochs than the published ones."""
    trials = [trial(lr, val, cell=CELL, epochs=epochs) for epochs in (2, 3) for lr, val in ((0.1, 50 + epochs), (0.2, 53))]
    report = Report(trials, *group_trials(trials, published_settings))
    rows = rows_of(report.markdown(), "Sweeps")
    assert [(row["epochs"], row["value"], row["by validation"]) for row in rows] == [
        ("2", "init_lr 0.1", ""),
        ("2", "init_lr 0.2", "best"),
        ("3", "init_lr 0.1", "best"),
        ("3", "init_lr 0.2", "best"),
    ]


def test_without_the_same_validation_images_no_value_is_named():
    without = "none is named: no validation images"
    assert {row[-1] for row in choices(trial(0.1, 50), trial(0.2, 0, validation=None))} == {without}
    assert {row[-1] for row in choices(trial(0.1, 50), trial(0.2, 60, validation=100))} == {
        "none is named: the validation images differ"
    }
    other_seed = trial(0.2, 60, seed=1)  # and so other images
    assert {row[-1] for row in choices(trial(0.1, 50, seed=0), other_seed)} == {"none is named: the validation images differ"}


def test_a_sweep_is_known_from_a_csv_file_too_and_other_runs_are_no_sweep(tmp_path):
    write_csv([trial(0.1, 50), trial(0.2, 60)], tmp_path / "runs.csv")
    rows = rows_of(make_report([tmp_path / "runs.csv"])[0].markdown(), "Sweeps")
    assert [row["by validation"] for row in rows] == ["", "best"]
    assert len(read_csv(tmp_path / "runs.csv")) == 2
    make_run(tmp_path / "a", DIGITS, settings=settings_of(DIGITS, exp_spec="short"))
    make_run(tmp_path / "b", DIGITS, 2, settings=settings_of(DIGITS, 2, init_lr=3.0))
    assert "## Sweeps" not in make_report([tmp_path / "a", tmp_path / "b"])[0].markdown()


def test_each_base_model_and_data_set_has_a_sweep_of_its_own():
    """Among those that are known: a run of an earlier commit, which recorded none, belongs to the only one there is."""
    scores = {("a1", 0.1): 50, ("a1", 0.2): 60, ("b2", 0.1): 70, ("b2", 0.2): 65}
    base = [trial(lr, val, base_model=name) for (name, lr), val in scores.items()]
    assert choices(*base) == [
        (f"{STE} (base_model a1)", "init_lr 0.1", "1", ""),
        (f"{STE} (base_model a1)", "init_lr 0.2", "1", "best"),
        (f"{STE} (base_model b2)", "init_lr 0.1", "1", "best"),
        (f"{STE} (base_model b2)", "init_lr 0.2", "1", ""),
    ]
    data = [trial(0.1, 50, data_digest="x"), trial(0.2, 60, data_digest="y", base="short"), trial(0.1, 70, data_digest="y")]
    assert [row[:2] for row in choices(*data)] == [
        (f"{STE} (data_digest x)", "grid-init-lr-0.1"),
        (f"{STE} (data_digest y)", "grid-init-lr-0.1"),
        (f"{STE} (short)", "short-grid-init-lr-0.2"),
    ]
    assert [row[-1] for row in choices(base[0], trial(0.2, 60))] == ["", "best"]
