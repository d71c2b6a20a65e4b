"""The evidence on real data: its scripts run the cells they say, and the pages show what figs/ holds."""

import os
import re
import shlex
import subprocess

import numpy as np
import pytest
from conftest import PROJECT
from parsed import train_settings

from figs import convergence, first_epoch, ranges
from utils.report.published import logged, published_settings
from utils.report.reading import read_csv, write_csv
from utils.tables.cells import Cell


def commands(script, tmp_path, **environment):
    """The settings that a script's commands of main.py train come to, and its last command."""
    base = tmp_path / "ResNet20-CIFAR10-pretrain.pth"
    base.touch()
    variables = {**os.environ, "METAQUANT_PRETRAINED": str(tmp_path), **environment}
    printed = subprocess.run(
        ["bash", f"scripts/{script}.sh", "--dry-run"], cwd=PROJECT, env=variables, check=True, capture_output=True, text=True
    )
    *runs, last = (shlex.split(line) for line in printed.stdout.splitlines())
    assert all(run[:3] == ["python", "main.py", "train"] for run in runs)
    settings = [train_settings(run[3:]).as_dict() for run in runs]
    assert {run["pretrained"] for run in settings} == {str(base)}
    return settings, last[1:]


def cells(runs):
    return {Cell(*(run[name] for name in Cell._fields)) for run in runs}


def without(settings, *names):
    return {name: value for name, value in settings.items() if name not in names}


def test_the_first_iterations_are_of_every_published_cell_of_resnet20(tmp_path):
    runs, last = commands("evidence_first_iterations", tmp_path, RESULTS="there", ITERATIONS="7", TRIALS="3")
    assert len(runs) == 3 * 14
    assert {run["trial"] for run in runs} == {1, 2, 3}
    assert cells(runs) >= {cell for cell in logged() if cell.model == "ResNet20"}
    assert {(run["stop_after"], run["epochs"], run["results_root"]) for run in runs} == {(7, 1, "there")}
    assert {run["meta_init"] for run in runs if run["backward"] == "FC-Grad"} == {"identity"}
    assert {run["meta_init"] for run in runs if run["backward"] in ("MultiFC", "LSTMFC")} == {"random"}
    assert last == ["figs/first_epoch.py", "there"]


def test_the_first_epochs_go_on_where_the_first_iterations_stopped(tmp_path):
    """The same settings but for --stop-after, so that the same folders are meant."""
    short, _ = commands("evidence_first_iterations", tmp_path, TRIALS="1")
    whole, last = commands("evidence_first_epochs", tmp_path)
    assert {run["stop_after"] for run in whole} == {None}
    assert len(cells(whole)) == len(whole) == 9
    known = [without(run, "stop_after") for run in short]
    new = [run for run in whole if without(run, "stop_after") not in known]
    assert [(run["quantizer"], run["backward"]) for run in new] == [("BWN", "MultiFC")]
    assert last == ["figs/first_epoch.py", "Results-first-epoch"]


def test_the_first_epochs_with_all_batches_differ_in_nothing_else(tmp_path):
    runs, _ = commands("evidence_first_epochs", tmp_path, BATCHES="", RESULTS="there")
    usual, _ = commands("evidence_first_epochs", tmp_path, RESULTS="there")
    assert [run | {"drop_last": True} for run in runs] == usual
    assert {run["drop_last"] for run in runs} == {False}


def test_the_long_runs_are_as_the_published_ones(tmp_path):
    runs, last = commands("evidence_convergence", tmp_path, RESULTS="there", TRIALS="2", METHODS="MultiFC STE FC-Grad")
    assert [(run["backward"], run["trial"]) for run in runs] == [(m, t) for m in ("MultiFC", "STE", "FC-Grad") for t in (1, 2)]
    for run in runs:
        (cell,) = cells([run])
        usual = published_settings(cell)
        assert {name for name in run if run[name] != usual[name]} <= {"trial", "pretrained", "results_root"}
    assert last == ["figs/convergence.py", "there"]


def test_the_pages_show_what_was_run():
    readme, first, whole = (
        (PROJECT / folder / "README.md").read_text() for folder in ("", "figs/first_epoch", "figs/convergence")
    )
    assert first_epoch.accuracy_table() in readme
    assert first_epoch.iterations_table() in first
    assert first_epoch.epochs_table() in first
    assert first_epoch.summary() in first
    assert first_epoch.last_batch_table() in first
    assert first_epoch.last_batch_difference() in first
    _, loss, train_acc, _ = re.findall(r"the farthest by ([\d.]+) %", first_epoch.summary())
    assert f"lie within {loss} and {train_acc} % of the range" in readme
    assert f"ours lie within {loss} and {train_acc} % of their range" in first.replace("\n  ", " ")
    assert convergence.table() in whole
    assert convergence.spread() in whole.replace("\n", " ")
    (ours,) = [trial for trial in read_csv(convergence.EPOCHS) if trial.cell.backward == "MultiFC"]
    (theirs,) = logged()[ours.cell]
    assert f"published run's {convergence.second_peak(theirs)}, ours {convergence.second_peak(ours)}" in whole.replace("\n", " ")


def test_runs_that_were_all_stopped_early_are_no_error(tmp_path, monkeypatch):
    """As after ITERATIONS=2 bash scripts/evidence_first_iterations.sh."""
    short = [run._replace(loss=run.loss[:2]) for run in first_epoch.beginnings()]
    monkeypatch.setattr(first_epoch, "beginnings", lambda: short)
    monkeypatch.setattr(first_epoch, "EPOCHS", tmp_path / "epochs.csv.xz")
    write_csv([], first_epoch.EPOCHS)
    assert first_epoch.summary().count("- 0 of 0 ") == 4
    assert first_epoch.last_batch_difference() == "over no pair of runs"
    assert "BWN Adam STE" in first_epoch.iterations_table()


def test_the_stored_logs_say_what_made_them():
    epochs, begun = read_csv(first_epoch.EPOCHS), first_epoch.beginnings()
    for trial in epochs:
        assert trial.settings["pretrained"].endswith(f"{trial.cell.model}-{trial.cell.dataset}-pretrain.pth")
        assert "with changes" not in trial.made_by
        (run,) = [run for run in begun if (run.cell, run.trial) == (trial.cell, trial.number)]
        assert len(run.loss) == 390
        assert run.loss[-1] == pytest.approx(trial.train_loss[0])
    assert all("torch" in run.made_by and "commit" in run.made_by for run in begun)
    others = read_csv(first_epoch.ALL_BATCHES)
    assert others
    assert not any(trial.settings.get("drop_last") or "with changes" in trial.made_by for trial in others)
    assert all(np.isfinite(run.loss).all() and (run.train_acc >= 0).all() and (run.train_acc <= 100).all() for run in begun)


@pytest.mark.parametrize(("values", "text"), [([1.234], "1.23"), ([1.5, 1.25, 1.3], "1.25 - 1.50")])
def test_a_range_in_words(values, text):
    assert ranges.span(values, 2) == text


def test_what_lies_outside_a_published_range_is_marked():
    assert ranges.marked([1.0, 1.234, 1.3], (1.1, 1.23), 2) == "1.00*, 1.23, 1.30*"
    assert ranges.marked([1.0], None, 1) == "1.0"
    assert ranges.beyond(1.0, (1.1, 1.23), 2) == pytest.approx(0.1)
    assert ranges.beyond(1.353, (1.1, 1.23), 3) == pytest.approx(0.1)
    assert ranges.beyond(1.1, (1.1, 1.23), 2) == 0
    assert ranges.beyond(1.0, (1.1, 1.1), 2) == 0  # of one trial


def test_the_long_runs_say_what_made_them():
    for trial in read_csv(convergence.EPOCHS):
        assert trial.settings["epochs"] == 100
        assert "torch" in trial.made_by
        assert "with changes" not in trial.made_by


def test_the_pictures_are_drawn(tmp_path):
    convergence.draw(tmp_path / "convergence")
    assert (tmp_path / "convergence.png").stat().st_size > 10_000
    first_epoch.draw(tmp_path / "first_epoch.png")
    assert (tmp_path / "first_epoch.png").stat().st_size > 10_000
