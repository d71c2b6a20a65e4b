"""The evidence on real data: its scripts run the cells they say, and the pages show what figs/ holds."""

import math
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import PROJECT
from parsed import train_settings
from resumed import only_run
from run_folders import CELL, make_run, make_trial
from scipy import stats
from table_runs import runs_of

from figs import accuracy_spread, convergence, first_epoch, ranges, stored
from utils.quantize import evaluate
from utils.report.csv_files import read_csv, write_csv
from utils.report.published import logged, printed, published_settings
from utils.run.evaluation import find_trained
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


def test_the_first_epochs_in_bf16_differ_in_nothing_else(tmp_path):
    runs, _ = commands("evidence_first_epochs", tmp_path, PRECISION="bf16", RESULTS="there")
    usual, _ = commands("evidence_first_epochs", tmp_path, RESULTS="there")
    assert [run | {"precision": "float32"} for run in runs] == usual
    assert {run["precision"] for run in runs} == {"bf16"}


def test_the_long_runs_are_as_the_published_ones(tmp_path):
    (tmp_path / "ResNet20-CIFAR10-pretrain.pth").touch()
    variables = os.environ | {"METAQUANT_PRETRAINED": str(tmp_path), "RESULTS": "there"}
    script = ["bash", "scripts/evidence_table1.sh"]
    printed = subprocess.run([*script, "--dry-run"], cwd=PROJECT, env=variables, check=True, capture_output=True, text=True)
    *tables, last = (shlex.split(line) for line in printed.stdout.splitlines())
    runs = []
    for command in tables:
        assert command[-4:] == ["--trials-per-device", "2", "--cpus-per-run", "1"]
        runs += runs_of(command[2:])
    assert [str(run) for run in runs[:3]] == [
        f"ResNet20 CIFAR10 {cell} trial 1" for cell in ("dorefa SGD STE", "BWN SGD FC-Grad", "BWN SGD STE")
    ]
    assert len(runs) == len({run.path for run in runs}) == 9 + 4 + 4
    for run in runs:
        settings, usual = run.settings.as_dict(), published_settings(run.row.cell)
        assert {name for name in settings if settings[name] != usual[name]} <= {
            "trial",
            "pretrained",
            "results_root",
            "data_root",
        }
        assert settings["pretrained"] == str(tmp_path / "ResNet20-CIFAR10-pretrain.pth")
    assert last[1:] == ["figs/convergence.py", "there"]
    only = subprocess.run(
        [*script, "--collect", "--dry-run"], cwd=PROJECT, env=variables, check=True, capture_output=True, text=True
    )
    assert only.stdout == "python figs/convergence.py there\n"


def test_the_pages_show_what_was_run():
    readme, first, whole = (
        (PROJECT / folder / "README.md").read_text() for folder in ("", "figs/first_epoch", "figs/convergence")
    )
    runs = read_csv(convergence.STORED)
    assert convergence.accuracy_table(runs) in readme
    assert convergence.coverage(runs) in readme.replace("\n", " ")
    assert first_epoch.iterations_table() in first
    assert first_epoch.epochs_table() in first
    assert first_epoch.summary() in first
    assert first_epoch.last_batch_table() in first
    assert first_epoch.last_batch_difference() in first
    assert first_epoch.bf16_table() in first
    _, loss, train_acc, test_acc = re.findall(r"the farthest by ([\d.]+) %", first_epoch.summary())
    outside = f"lie at most {loss} % and {train_acc} % outside the range of the logs, and test accuracy at most {test_acc} %."
    assert outside in readme.replace("\n", " ")
    assert f"ours lie within {loss} and {train_acc} % of their range" in first.replace("\n  ", " ")
    assert convergence.epochs_table(runs) in whole
    assert convergence.accuracy_table(runs) in whole
    assert convergence.trials_table(runs) in whole
    assert convergence.differences_table(runs) in whole
    assert convergence.coverage(runs) in whole.replace("\n", " ")
    assert convergence.spread() in whole.replace("\n", " ")
    (ours,) = [trial for trial in runs if trial.cell.backward == "MultiFC"]
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
        (run,) = [run for run in begun if (run.cell, run.number) == (trial.cell, trial.number)]
        assert len(run.loss) == 390
        assert run.loss[-1] == pytest.approx(trial.train_loss[0])
    assert all("torch" in run.made_by and "commit" in run.made_by for run in begun)
    others = read_csv(first_epoch.ALL_BATCHES)
    assert others
    assert not any(trial.settings.get("drop_last") or "with changes" in trial.made_by for trial in others)
    assert all(np.isfinite(run.loss).all() and (run.train_acc >= 0).all() and (run.train_acc <= 100).all() for run in begun)


@pytest.mark.parametrize(("values", "text"), [([1.234], "1.23"), ([1.5, 1.25, 1.3], "1.25 - 1.50")])
def test_a_range_in_words(values, text):
    assert ranges.range_text(values, 2) == text


def test_what_lies_outside_a_published_range_is_marked():
    assert ranges.starred([1.0, 1.234, 1.3], (1.1, 1.23), 2) == "1.00*, 1.23, 1.30*"
    assert ranges.starred([1.0], None, 1) == "1.0"
    assert ranges.relative_excess(0.99, (1.1, 1.23), 2) == pytest.approx(0.1)
    assert ranges.relative_excess(0.001, (1.1, 1.23), 2) == pytest.approx(1.0)
    assert ranges.relative_excess(0.2, (0.0, 0.1), 2) == pytest.approx(1.0)
    assert ranges.relative_excess(0.1, (-0.2, 0.001), 2) == math.inf
    assert ranges.relative_excess(1.353, (1.1, 1.23), 3) == pytest.approx(0.1)
    assert ranges.relative_excess(1.1, (1.1, 1.23), 2) == 0
    assert ranges.relative_excess(1.0, (1.1, 1.1), 2) == 0  # of one trial


def test_the_long_runs_say_what_made_them():
    """Four were marked for a result in figs/ that had been written before them, which is no change of the code."""
    trials = read_csv(convergence.STORED)
    for trial in trials:
        assert trial.settings["epochs"] == 100
        assert "torch" in trial.made_by
    bwn, deeper = CELL._replace(quantizer="BWN"), CELL._replace(model="ResNet32")
    marked = {(bwn, 2), (deeper, 1), (deeper, 2), (deeper._replace(quantizer="BWN"), 1)}
    assert {(trial.cell, trial.number) for trial in trials if "with changes" in trial.made_by} == marked


def long_run(path, cell, trial=1, epochs=100, **record):
    """A run of 100 planned epochs of which some are done."""
    state = "done" if epochs == 100 else "running"
    settings = {**published_settings(cell), "trial": trial}
    return make_run(path, cell, trial, epochs, shift=-50, settings=settings, **{"state": state, **record})


def test_runs_are_added_to_the_stored_ones(tmp_path, capsys):
    """Finished or not, and made at several commits; a longer run replaces the stored one of its cell and trial."""
    path, learned = tmp_path / "stored.csv.xz", CELL._replace(backward="FC-Grad", quantizer="BWN")
    long_run(tmp_path / "a" / "1", learned, epochs=25, git={"commit": "a" * 40, "dirty": False})
    long_run(tmp_path / "a" / "2", CELL, trial=2, epochs=30)
    convergence.collect([tmp_path / "a"], path)
    long_run(tmp_path / "b" / "1", learned, git={"commit": "b" * 40, "dirty": False})
    make_run(tmp_path / "b" / "short", CELL, epochs=3)
    convergence.collect([tmp_path / "b"], path)
    assert [(trial.cell, trial.number, trial.epochs) for trial in read_csv(path)] == [(CELL, 2, 30), (learned, 1, 100)]
    assert "commit bbbbbbbbbb" in read_csv(path)[1].made_by
    assert capsys.readouterr().err == f"{tmp_path / 'b' / 'short'}: skipped, because of its settings: drop_last off, epochs 3\n"


def test_unfinished_runs_are_named_as_such(tmp_path):
    other = CELL._replace(quantizer="BWN", optimizer="Adam")
    for folder, cell, epochs in (("1", CELL, 100), ("2", other, 12)):
        long_run(tmp_path / folder, cell, epochs=epochs)
    runs = stored.trials_below([tmp_path])
    (row,) = convergence.accuracy_table(runs).splitlines()[2:]
    ours = "95.500 (8.250), n = 1"  # epoch k has the accuracy k
    assert row == f"| ResNet20 CIFAR10 | dorefa SGD STE | 80.745 (2.113) | 80.598 (3.384), n = 2 | {ours} |"
    assert convergence.coverage(runs) == (
        "1 of the 70 cells of the paper's Tables 1 and 2 has been run to 100 epochs; the other 69 have not."
    )
    rows = convergence.epochs_table(runs).splitlines()[2:]
    assert [row.split(" | ")[3:5] for row in rows[-2:]] == [
        ["unfinished, 12 of 100", "1 - 10"],
        ["unfinished, 12 of 100", "11 - 12"],
    ]
    assert rows[9].split(" | ")[3:5] == ["finished, 100 of 100", "91 - 100"]
    convergence.draw(runs, tmp_path / "picture")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_whole_table_and_none_of_it():
    runs = "cells of the paper's Tables 1 and 2 have been run to 100 epochs"
    assert convergence.coverage([]) == f"0 of the 70 {runs}; the other 70 have not."
    every = [make_trial([1.0] * 100, cell) for cell in printed()]
    assert convergence.coverage(every[1:]) == f"69 of the 70 {runs}; the other 1 has not."
    assert convergence.coverage(every) == f"70 of the 70 {runs}."


def test_training_accuracies_are_compared_with_the_logs_by_the_spread_of_published_trials():
    """STE with SGD on CIFAR-10: six cells, of 2, 3, 5, 5, 5 and 5 trials; Student's t by scipy.stats."""
    logs = logged()[CELL]
    means = [trial.train_acc[:10].mean() for trial in logs]
    alike = [one for cell, one in logged().items() if (cell.dataset, *cell[3:]) == (CELL.dataset, *CELL[3:])]
    first_ten = [[trial.train_acc[:10].mean() for trial in one] for one in alike]
    sd = math.sqrt(sum(np.var(one) * len(one) for one in first_ten) / 19)
    assert sorted(map(len, first_ten)) == [2, 3, 5, 5, 5, 5]
    assert convergence.pooled_deviation(CELL, 0, 10) == (pytest.approx(sd), 19)
    ours = [replace(logs[0], train_acc=logs[0].train_acc + shift, number=number) for number, shift in ((1, 0.25), (2, -0.5))]
    first, *later = convergence.differences_table(ours).splitlines()[2:]
    assert len(later) == 3
    differences = [means[0] + shift - np.mean(means) for shift in (0.25, -0.5)]
    error = sd * math.sqrt(1 / 2 + 1 / 2)
    p = stats.t.sf(abs(np.mean(differences)) / error, 19) * 2
    by_trial = "1: {:+.2f}, 2: {:+.2f}".format(*differences)
    numbers = f"{np.mean(means):.2f} (2) | {by_trial} | {np.mean(differences):+.2f} | {error:.2f} | {p:.3f} |"
    assert first == f"| ResNet20 CIFAR10 | dorefa SGD STE | 1 - 10 | {numbers}"
    assert "MultiFC" not in convergence.differences_table([make_trial([1.0] * 100, CELL._replace(backward="MultiFC"))])


@pytest.mark.parametrize("program", ["convergence", "first_epoch", "accuracy_spread", "published/errata"])
def test_the_programs_say_what_they_take(program):
    command = [sys.executable, f"figs/{program}.py", "--help"]
    shown = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    assert shown.startswith(f"usage: {program.split('/')[-1]}.py")


def test_the_pictures_are_drawn(tmp_path):
    convergence.draw(read_csv(convergence.STORED), tmp_path / "convergence")
    assert (tmp_path / "convergence.png").stat().st_size > 10_000
    first_epoch.draw(tmp_path / "first_epoch.png")
    assert (tmp_path / "first_epoch.png").stat().st_size > 10_000


def test_the_spread_of_accuracies_begins_with_the_checkpoint_and_goes_on_as_the_run_does(
    call_main, tiny_set, tmp_path, monkeypatch
):
    """By the loss in the place of the accuracy, which of eight images has few values."""

    def loss_for_accuracy(*arguments):
        found = evaluate(*arguments)
        return found._replace(top1=found.loss)

    def loss_of(run):
        trained = find_trained(run, None, None)
        loader = trained.load_test_data("")
        return evaluate(trained.build(loader, torch.device("cpu")), trained.quantizer, loader).loss

    monkeypatch.setattr(accuracy_spread, "ITERATIONS", 2)
    monkeypatch.setattr(accuracy_spread, "evaluate", loss_for_accuracy)
    where = ["-d", tiny_set, "--results-root", tmp_path, "--pretrained", "none", "-meta", "MultiFC", "-lr", "0.05"]
    found, losses = [], []
    for stop in (5, 6, 7):  # of four iterations in an epoch
        assert call_main("train", "-m", "ResNet8", "-bs", 2, "-n", 2, "-ad", 1, *where, "--stop-after", stop).code == 0
        run = only_run(tmp_path)
        found = found or accuracy_spread.accuracies(run)
        losses.append(loss_of(run))
    assert found == pytest.approx(losses, rel=1e-6)
    assert len(set(losses)) == 3
