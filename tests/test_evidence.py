"""The evidence on real data: its scripts run the cells they say, and the README shows what figs/first_epoch holds."""

import os
import shlex
import subprocess

import numpy as np
import pytest
from conftest import PROJECT

from figs import convergence, first_epoch, ranges
from main import COMMANDS
from utils.cells import Cell
from utils.options import build_parser, parse_training
from utils.published import logged, published_settings
from utils.results import read_csv


def commands(script, tmp_path, **environment):
    """The arguments that a script gives python, recorded by one that does nothing else."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/usr/bin/env bash\nprintf "%q " "$@" >> {tmp_path}/calls\necho >> {tmp_path}/calls\n')
    python.chmod(0o755)
    variables = {**os.environ, "VENV": str(tmp_path), "METAQUANT_PRETRAINED": "/base models", **environment}
    subprocess.run(["bash", f"scripts/{script}.sh"], cwd=PROJECT, env=variables, check=True)
    calls = [shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines()]
    return [call for call in calls if call[0] == "main.py"], calls[-1]


def parsed(calls):
    parser = build_parser(COMMANDS)
    return [parser.parse_args(call[1:]) for call in calls]


def cells(runs):
    return {Cell(run.model, run.dataset, run.quantizer, run.backward, run.optimizer) for run in runs}


def test_the_first_iterations_are_of_every_published_cell_of_resnet20(tmp_path):
    calls, last = commands("evidence_first_iterations", tmp_path, RESULTS="there", ITERATIONS="7", TRIALS="3")
    runs = parsed(calls)
    assert len(runs) == 3 * 14
    assert {run.trial for run in runs} == {1, 2, 3}
    assert cells(runs) >= {cell for cell in logged() if cell.model == "ResNet20"}
    assert {run.stop_after for run in runs} == {7}
    assert {(run.epochs, run.results_root, run.pretrained) for run in runs} == {
        (1, "there", "/base models/ResNet20-CIFAR10-pretrain.pth")
    }
    assert {run.meta_init for run in runs if run.backward == "FC-Grad"} == {"identity"}
    assert {run.meta_init for run in runs if run.backward in ("MultiFC", "LSTMFC")} == {"random"}
    assert last == ["figs/first_epoch.py", "there"]


def test_the_first_epochs_go_on_where_the_first_iterations_stopped(tmp_path):
    """The same settings but for --stop-after, so that the same folders are meant."""
    short, _ = commands("evidence_first_iterations", tmp_path / "a", RESULTS="there", TRIALS="1")
    whole, _ = commands("evidence_first_epochs", tmp_path / "b", RESULTS="there")
    runs = parsed(whole)
    assert {run.stop_after for run in runs} == {None}
    assert len(cells(runs)) == len(runs) == 9
    known = {
        tuple(sorted((k, str(v)) for k, v in vars(run).items() if k not in ("stop_after", "meta_init"))) for run in parsed(short)
    }
    for run in runs:
        settings = {k: v for k, v in vars(run).items() if k not in ("stop_after", "meta_init")}
        assert (tuple(sorted((k, str(v)) for k, v in settings.items())) in known) == (
            (run.quantizer, run.backward) != ("BWN", "MultiFC")
        )


def test_the_long_runs_are_as_the_published_ones(tmp_path):
    calls, last = commands("evidence_convergence", tmp_path, RESULTS="there", TRIALS="2")
    runs = [parse_training(call[2:], "the script") for call in calls]
    assert [(run["backward"], run["trial"]) for run in runs] == [("MultiFC", 1), ("STE", 1), ("MultiFC", 2), ("STE", 2)]
    assert {run["results_root"] for run in runs} == {"there"}
    for run in runs:
        usual = published_settings(Cell(*(run[name] for name in ("model", "dataset", "quantizer", "backward", "optimizer"))))
        assert {name for name in run if run[name] != usual[name]} <= {"trial", "pretrained", "results_root"}
    assert last == ["figs/convergence.py", "there"]


def test_the_readme_shows_what_was_run():
    readme = (PROJECT / "README.md").read_text()
    assert first_epoch.iterations_table() in readme
    assert first_epoch.epochs_table() in readme
    assert first_epoch.summary() in readme
    assert first_epoch.last_batch_table() in readme
    assert convergence.table() in readme


def test_the_stored_logs_say_what_made_them():
    epochs, begun = read_csv(first_epoch.EPOCHS), first_epoch.beginnings()
    for trial in epochs:
        assert trial.settings["pretrained"].endswith(f"{trial.cell.model}-{trial.cell.dataset}-pretrain.pth")
        assert "with changes" not in trial.made_by
        (run,) = [run for run in begun if (run.cell, run.trial) == (trial.cell, trial.number)]
        assert len(run.loss) == 390
        assert run.loss[-1] == pytest.approx(trial.train_loss[0])
    assert all("torch" in run.made_by and "commit" in run.made_by for run in begun)
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
