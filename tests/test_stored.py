"""What figs/convergence.py and figs/first_epoch.py store: no run replaces a longer one, or one with other settings."""

import shutil

import numpy as np
import pytest
from run_folders import CELL, make_run, make_trial

from figs import convergence, first_epoch, stored
from utils.report.csv_files import read_csv, write_csv
from utils.report.published import published_settings
from utils.run.identity import CONTENTS

BWN = CELL._replace(quantizer="BWN")
BATCHES = 3  # per epoch


def published_run(path, cell=CELL, trial=1, epochs=100, done=None, **changes):
    """A run with the published settings but for the changes, of which so many epochs are done."""
    record = {name: changes.pop(name) for name in CONTENTS if name in changes}
    settings = {**published_settings(cell), "trial": trial, "epochs": epochs, **changes}
    done = epochs if done is None else done
    state = "done" if done == epochs else "running"
    return make_run(
        path, cell, trial, done, shift=-50, settings=settings, state=state, device=path.name, per_epoch=BATCHES, **record
    )


def test_a_shorter_run_does_not_replace_a_longer_one(tmp_path):
    path = tmp_path / "stored.csv.xz"
    for name, done in (("half", 50), ("whole", 100), ("again", 100), ("fresh", 2)):
        published_run(tmp_path / name / "run", done=done)
        convergence.collect([tmp_path / name], path)
        (trial,) = read_csv(path)
        assert (trial.epochs, trial.state) == ((50, "running") if name == "half" else (100, "done"))
    published_run(tmp_path / "later" / "on another machine")
    convergence.collect([tmp_path / "later"], path)
    assert read_csv(path)[0].made_by.startswith("on another machine")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 2}, "epochs 2"),
        ({"seed": 1}, "seed 1"),
        ({"init_lr": 0.1}, "init_lr 0.1"),
        ({"precision": "bf16"}, "precision bf16"),
        ({"loader": "torchvision"}, "loader torchvision"),
        ({"drop_last": False}, "drop_last off"),
        ({"pretrained": "none"}, "from scratch"),
        ({"label_smoothing": 0.1, "bits": 2}, "bits 2, label_smoothing 0.1"),
    ],
)
def test_a_run_with_other_settings_is_named_and_not_stored(change, words, tmp_path, capsys):
    path = tmp_path / "stored.csv.xz"
    write_csv([make_trial(np.arange(50.0), settings=published_settings(CELL) | {"trial": 1})], path)
    run = published_run(tmp_path / "run", **change)
    convergence.collect([tmp_path / "run"], path)
    assert [trial.epochs for trial in read_csv(path)] == [50]
    assert capsys.readouterr().err == f"{run}: skipped, because of its settings: {words}\n"


def test_a_run_of_no_published_cell_and_one_without_a_record_are_not_stored(tmp_path, capsys):
    other = make_run(tmp_path / "runs" / "other", CELL._replace(dataset="Digits"))
    bare = published_run(tmp_path / "runs" / "ResNet20-CIFAR10" / "Baseline-dorefa-optimizer-SGD-1bits-trial-1")
    (bare / "run.json").unlink()
    convergence.collect([tmp_path / "runs"], tmp_path / "stored.csv.xz")
    assert read_csv(tmp_path / "stored.csv.xz") == []
    words = "skipped, because of its settings: "
    assert sorted(capsys.readouterr().err.splitlines()) == sorted(
        [f"{other}: {words}its cell is none of scripts/manifest.toml", f"{bare}: {words}no record"]
    )


def test_a_run_of_another_base_model_or_other_data_is_named_and_not_stored(tmp_path, capsys):
    path = tmp_path / "stored.csv.xz"
    mine = {"base_model": "a" * 64, "data_digest": "d" * 64}
    published_run(tmp_path / "first" / "1", done=50, **mine)
    convergence.collect([tmp_path / "first"], path)
    others = [published_run(tmp_path / "others" / name, **(mine | {name: "b" * 64})) for name in mine]
    convergence.collect([tmp_path / "others"], path)
    assert [trial.epochs for trial in read_csv(path)] == [50]
    reasons = [f"{name} {'b' * 12}" for name in mine]
    assert capsys.readouterr().err.splitlines() == [
        f"{run}: skipped, because of its settings: {reason}" for run, reason in zip(others, reasons, strict=True)
    ]
    published_run(tmp_path / "same" / "1", **mine)
    convergence.collect([tmp_path / "same"], path)
    assert [trial.epochs for trial in read_csv(path)] == [100]


def test_what_is_stored_would_be_stored_again():
    for trial in read_csv(convergence.STORED):
        assert stored.deviations(trial, published_settings(trial.cell)) == ""
    for trial in [*read_csv(first_epoch.EPOCHS), *read_csv(first_epoch.ALL_BATCHES)]:
        assert stored.deviations(trial, first_epoch._expected_settings(trial)) == ""


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The stored first epochs, in a folder of their own."""
    for name in ("EPOCHS", "ITERATIONS", "ALL_BATCHES", "IN_BF16"):
        if getattr(first_epoch, name).is_file():
            shutil.copy(getattr(first_epoch, name), tmp_path)
        monkeypatch.setattr(first_epoch, name, tmp_path / getattr(first_epoch, name).name)


def stored_first_epochs():
    """What is stored, by cell and trial: epochs of 390 and of 391 batches, and iterations."""
    paths = first_epoch.EPOCHS, first_epoch.ALL_BATCHES
    files = [{(t.cell, t.number): (t.made_by, *t.test_acc) for t in read_csv(path)} for path in paths]
    return *files, {(b.cell, b.number): (b.made_by, b.loss.tolist(), b.train_acc.tolist()) for b in first_epoch.beginnings()}


def test_runs_that_were_stopped_take_nothing_away(copies, tmp_path, capsys):
    before = stored_first_epochs()
    settings = published_settings(CELL) | {"trial": 1, "epochs": 1}
    make_run(tmp_path / "R" / "1", epochs=0, extra_rows=2, state="running", settings=settings)
    tf32 = published_run(tmp_path / "R" / "2", BWN, epochs=1, precision="tf32")
    first_epoch.collect(tmp_path / "R")
    assert stored_first_epochs() == before
    assert len(before[0]) == 14
    assert capsys.readouterr().err == f"{tf32}: skipped, because of its settings: precision tf32\n"


def test_first_epochs_in_bf16_stand_beside_those_in_float32(copies, tmp_path):
    before = stored_first_epochs()
    first_epoch.IN_BF16.unlink(missing_ok=True)
    published_run(tmp_path / "R" / "1", BWN, epochs=1, precision="bf16")
    first_epoch.collect(tmp_path / "R")
    assert stored_first_epochs() == before
    (bf16,) = read_csv(first_epoch.IN_BF16)
    (float32,) = [trial for trial in read_csv(first_epoch.EPOCHS) if (trial.cell, trial.number) == (BWN, 1)]
    _, _, row = first_epoch.bf16_table().splitlines()
    values = [part.strip() for part in row.strip("|").split("|")]
    assert values[:3] == ["ResNet20 CIFAR10", "BWN SGD STE", "1"]
    assert values[3:5] == [f"{float32.train_loss[0]:.3f}", f"{bf16.train_loss[0]:.3f}"]
    assert values[-2:] == [f"{float32.test_acc[0]:.2f}", f"{bf16.test_acc[0]:.2f}"]


def test_first_epochs_are_added_and_their_panels_drawn(copies, tmp_path):
    for path in (first_epoch.EPOCHS, first_epoch.ITERATIONS, first_epoch.ALL_BATCHES):
        path.unlink()
    first_epoch.draw(tmp_path / "none.png")
    cells = [CELL, CELL._replace(optimizer="Adam"), BWN]
    for number, cell in enumerate(cells):
        published_run(tmp_path / "R" / f"{number}", cell, trial=2, epochs=1)
    published_run(tmp_path / "R" / "all batches", trial=2, epochs=1, drop_last=False)
    first_epoch.collect(tmp_path / "R")
    assert [(trial.cell, trial.number) for trial in read_csv(first_epoch.EPOCHS)] == [(cell, 2) for cell in cells]
    assert [trial.made_by.partition(",")[0] for trial in read_csv(first_epoch.ALL_BATCHES)] == ["all batches"]
    assert [(run.cell, run.number, len(run.loss)) for run in first_epoch.beginnings()] == [(cell, 2, BATCHES) for cell in cells]
    first_epoch.draw(tmp_path / "three.png")
    assert (tmp_path / "three.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "none.png").exists()
