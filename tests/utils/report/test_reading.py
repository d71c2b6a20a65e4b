"""Trials read from run folders, with a record or by their names, and epochs found in the log files."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import CELL, DIGITS, make_run, settings_of, write_logs

from utils.choices import methods
from utils.report.reading import find_trials, iterations_per_epoch, read_folder
from utils.run.folder.name import run_name
from utils.run.paths import experiment_folder
from utils.run.settings import TrainSettings
from utils.tables.cells import Cell

OLD = "ResNet20-CIFAR10/runs-Quant-Multiple/dorefa/Baseline-dorefa-optimizer-SGD-1bits-trial-2"


@pytest.mark.parametrize("extra_rows", [0, 2])
def test_an_epochs_value_is_the_running_mean_at_its_end(tmp_path, extra_rows):
    state = "running" if extra_rows else "done"
    trial = read_folder(make_run(tmp_path / "a", epochs=4, extra_rows=extra_rows, state=state))
    assert (trial.cell, trial.number, trial.state, trial.epochs) == (CELL, 1, state, 4)
    np.testing.assert_allclose(trial.train_loss, [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_array_equal(trial.train_acc, [1, 2, 3, 4])
    np.testing.assert_array_equal(trial.test_acc, [51, 52, 53, 54])
    assert trial.made_by == "cpu, torch 2.15, commit 0123456789"


def test_a_base_model_is_full_precision(tmp_path):
    run = {"model": "ResNet20", "dataset": "NPZ:/a/b/set.npz", "optimizer": "SGD-M", "trial": 1}
    assert read_folder(make_run(tmp_path / "a", settings=run)).cell == Cell(
        "ResNet20", "NPZ-set", "none", "full precision", "SGD-M"
    )


def test_replaced_runs_and_overlapping_roots(tmp_path):
    for name in ("x/1", "x/2", "x/replaced/1"):
        make_run(tmp_path / name, trial=int(name[-1]))
    trials, problems = find_trials([tmp_path, tmp_path / "x", tmp_path / "x" / "1"])
    assert ([trial.number for trial in trials], problems) == ([1, 2], [])
    trials, _ = find_trials([tmp_path / "x" / "replaced"])
    assert len(trials) == 1


METHODS = {
    "Baseline-dorefa-optimizer-SGD-1bits-trial-2": ("dorefa", "STE", "SGD", 2),
    "Baseline-BWN-F-optimizer-SGD-M-1bits-trial-1": ("BWN-F", "STE", "SGD-M", 1),
    "Meta-FC-Grad-Nonlinear-None-hidden-size-100-BWN-Adam-1bits-lr-30-trial-5": ("BWN", "FC-Grad", "Adam", 5),
    "Meta-MLPFC-Nonlinear-None-hidden-size-100-nfc-3-dorefa-SGD-1bits-lr-30-trial-1": ("dorefa", "MultiFC", "SGD", 1),
    "Meta-LSTMFC-Nonlinear-None-hidden-size-100-nlstm-1-BWN-SGD-1bits-lr-30-trial-12": ("BWN", "LSTMFC", "SGD", 12),
    "Meta-MultiFC-Nonlinear-tanh-hidden-size-8-nfc-2-BWN-F-SGD-M-1bits-lr-adaptive-mine-trial-3": (
        "BWN-F",
        "MultiFC",
        "SGD-M",
        3,
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_published_names(name, tmp_path):
    quantizer, backward, optimizer, number = METHODS[name]
    folder = tmp_path / "ResNet110-CIFAR100" / "runs-Quant-Multiple" / quantizer / name
    write_logs(folder, [1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    ((trial,), problems) = find_trials([tmp_path])
    assert problems == []
    assert (trial.cell, trial.number) == (Cell("ResNet110", "CIFAR100", quantizer, backward, optimizer), number)
    assert not trial.recorded
    np.testing.assert_array_equal([trial.test_acc, trial.train_loss, trial.train_acc], [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("folder", "net", "dataset"),
    [
        ("torchvision-resnet18-CIFAR10", "torchvision:resnet18", "CIFAR10"),
        ("torchvision-vit_b_16-NPZ-my-set", "torchvision:vit_b_16", "NPZ-my-set"),
        ("VGG-small-Digits", "VGG-small", "Digits"),
        ("LABNet-CIFAR10", "LABNet", "CIFAR10"),
    ],
)
def test_nets_by_their_folders(folder, net, dataset, tmp_path):
    name = "Baseline-BWN-optimizer-SGD-1bits-lr-30-mine-keep-_.downsample._+fc++0a1b2c3d4e5f-trial-2"
    write_logs(tmp_path / folder / "runs-Quant" / name, [1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    ((trial,), problems) = find_trials([tmp_path])
    assert problems == []
    assert (trial.cell, trial.number) == (Cell(net, dataset, "BWN", "STE", "SGD"), 2)
    assert experiment_folder(tmp_path, net, dataset).name == folder


@pytest.mark.parametrize("folder", ["resnet18-CIFAR10", "torchvision-CIFAR10", "torchvision:resnet18-CIFAR10"])
def test_a_folder_of_no_net_is_said_to_be_unknown(folder, tmp_path):
    write_logs(tmp_path / folder / "runs-Quant" / "Baseline-BWN-optimizer-SGD-1bits-trial-1", [1.0], [3.0], [5.0])
    trials, (problem,) = find_trials([tmp_path])
    assert trials == []
    assert "no <Model>-<Dataset> above it" in problem


@pytest.mark.parametrize("backward", methods())
def test_a_folders_name_says_its_cell_without_a_record(tmp_path, backward):
    """The name that `train` gives the run of a method, read where only the text files were taken away."""
    settings = TrainSettings(model="ResNet20", dataset="CIFAR10", quantizer="BWN-F", optimizer="Nesterov", backward=backward)
    folder = tmp_path / "ResNet20-CIFAR10" / run_name(settings)
    write_logs(folder, [50, 51], [2, 1], [40, 41])
    assert read_folder(folder).cell == Cell("ResNet20", "CIFAR10", "BWN-F", backward, "Nesterov")


def test_test_accuracies_without_a_count(tmp_path):
    write_logs(tmp_path / OLD, [1.0, 2.0], [3.0, 4.0], [5.0, 6.0])
    (tmp_path / OLD / "test-acc.txt").write_text("1.0\n2.0\n")
    np.testing.assert_array_equal(read_folder(tmp_path / OLD).test_acc, [1, 2])


def running_mean_of(epochs, per_epoch, rows, seed):
    """A noisy loss that falls from epoch to epoch, as means since each epoch's start; the first `rows` of them."""
    random = np.random.default_rng(seed)
    losses = 2 / (1 + np.arange(epochs + 1)[:, None]) + random.normal(scale=0.3, size=(epochs + 1, per_epoch))
    return (np.cumsum(losses, axis=1) / np.arange(1, per_epoch + 1)).ravel()[:rows]


@settings(max_examples=50)
@given(epochs=st.integers(1, 8), per_epoch=st.integers(60, 120), seed=st.integers(0, 99))
def test_whole_epochs_are_found_in_a_running_mean(epochs, per_epoch, seed):
    assert iterations_per_epoch(running_mean_of(epochs, per_epoch, epochs * per_epoch, seed), epochs) == per_epoch


@pytest.mark.parametrize("unfinished", [1, 100, 390])
def test_epochs_are_found_in_a_running_mean_that_was_cut_off(unfinished):
    """Nearly always: where the noise at the boundaries hides the jumps, no reader of the numbers alone could tell."""
    found = [iterations_per_epoch(running_mean_of(10, 391, 3910 + unfinished, seed), 10) for seed in range(40)]
    assert sum(count == 391 for count in found) >= 38


@pytest.mark.parametrize(("per_epoch", "epochs"), [(390, 99), (391, 99), (390, 9), (45, 99), (391, 1)])
def test_an_epoch_that_was_not_tested_is_an_epoch(per_epoch, epochs):
    for seed in range(5):
        rows = (epochs + 1) * per_epoch
        assert iterations_per_epoch(running_mean_of(epochs, per_epoch, rows, seed), epochs) == per_epoch


def test_a_number_of_rows_that_fits_no_epochs_is_named(tmp_path):
    for epochs in range(1, 12):
        for rows in range(epochs, 40):
            fits = any(n * epochs <= rows <= n * (epochs + 1) for n in range(1, rows + 1))
            if fits:
                found = iterations_per_epoch(np.arange(rows) % 3.0, epochs)
                assert found * epochs <= rows <= found * (epochs + 1)
            else:
                with pytest.raises(ValueError, match=f"{rows} iterations cannot be {epochs} epochs"):
                    iterations_per_epoch(np.arange(rows) % 3.0, epochs)
    write_logs(tmp_path / OLD, [1.0] * 3, [1.0] * 5, [1.0] * 5, per_epoch=1)
    (_, (problem,)) = find_trials([tmp_path])
    assert problem == f"{tmp_path / OLD}: 5 iterations cannot be 3 epochs of equal length and a part of another"


@pytest.mark.parametrize("rows", [1, 391])
def test_a_flat_curve_has_whole_epochs(rows):
    assert iterations_per_epoch(np.zeros(rows * 4), 4) == rows


def damage_record(content):
    return lambda folder: (folder / "run.json").write_text(content)


WHOLE = {"state": "done", "settings": settings_of(DIGITS)}

DAMAGE = {
    "empty record": damage_record(""),
    "half-written record": damage_record('{"settings": {"model": "Res'),
    "list": damage_record("[]"),
    "no settings": damage_record('{"settings": 1}'),
    "no model": damage_record('{"settings": {}, "state": "done"}'),
    "model a number": damage_record(json.dumps(WHOLE | {"settings": settings_of(DIGITS, model=20)})),
    "no state": damage_record(json.dumps({"settings": settings_of(DIGITS)})),
    "no iterations": damage_record(json.dumps(WHOLE | {"iterations_per_epoch": 0})),
    "trial a word": damage_record(json.dumps(WHOLE | {"settings": settings_of(DIGITS, trial="one")})),
    "words in loss.txt": lambda folder: (folder / "loss.txt").write_text("0, low\n"),
    "bytes in test-acc.txt": lambda folder: (folder / "test-acc.txt").write_bytes(b"\xff\xfe\x00"),
    "short loss.txt": lambda folder: (folder / "loss.txt").write_text("0, 1\n"),
    "record gone, name unknown": lambda folder: (folder / "run.json").unlink(),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_cannot_be_read_is_named_and_the_rest_is_read(case, tmp_path):
    DAMAGE[case](make_run(tmp_path / "bad"))
    make_run(tmp_path / "good")
    trials, problems = find_trials([tmp_path, tmp_path / "absent"])
    assert [trial.source.name for trial in trials] == ["good"]
    assert len(problems) == 2
    assert str(tmp_path / "bad") in problems[0]
    assert "absent" in problems[1]
    assert not any("\n" in problem for problem in problems)


@pytest.mark.parametrize(("files", "words"), [(1, "1 Python file"), (2, "2 Python files")])
def test_a_trial_says_what_made_it_and_why_it_ended_in_plain_words(tmp_path, files, words):
    git = {"commit": "0123456789abcdef", "dirty": True, "untracked": files}
    settings = settings_of(CELL, results_root="Results")
    error = "Results/ResNet20-CIFAR10/runs-Quant/run stopped after 1 iteration; rerun without --stop-after to continue"
    trial = read_folder(make_run(tmp_path / "run", settings=settings, git=git, error=error, state="running"))
    assert trial.made_by == f"cpu, torch 2.15, commit 0123456789 with changes ({words} of it untracked)"
    assert trial.error == "stopped after 1 iteration; rerun without --stop-after to continue"
    assert trial.state_in_words == "unfinished"
    other = "the loss is nan, see run stopped"
    assert read_folder(make_run(tmp_path / "2" / "run", settings=settings, error=other, state="failed")).error == other
