"""scripts/controls.sh, which asks whether the learned gradient helps, and figs/controls.py, which collects its runs."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from resumed import record_of
from run_folders import DIGITS, make_run, make_trial, settings_of
from table_runs import runs_of

from figs import controls
from models_CIFAR.resnet import ResNet
from utils.recorder import Recorder
from utils.report.csv_files import read_csv, write_csv
from utils.run.folder.checkpoint import load_tensors

PROJECT = Path(__file__).resolve().parent.parent
SCRIPT = PROJECT / "scripts" / "controls.sh"
LEARNED = DIGITS._replace(backward="MultiFC")
PROGRAM = f"""
import sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = [{str(PROJECT)!r}, {str(PROJECT / "tests")!r}]
import small_main
from main import main
from utils.choices import DATASETS
from utils.dataset import digits

def few(split, root):
    images = digits(split, root)
    return replace(images, images=images.images[:60], targets=images.targets[:60])

DATASETS.data["Digits"] = few  # the scripts name a built-in set
if __name__ == "__main__":
    sys.exit(main(program=Path(__file__)))
"""


def script(environment, *arguments):
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=os.environ | environment, check=False)


def printed_runs(tmp_path, *arguments, **environment):
    """The runs that the script would begin, with a rate and a run in the places of those that it looks for."""
    (tmp_path / "ResNet20-CIFAR10-pretrain.pth").touch()
    process = script({"METAQUANT_PRETRAINED": str(tmp_path), **environment}, "--dry-run", *arguments)
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if not line.startswith(("# RATE: ", "# RUN_DIR: "))]
    assert len(lines) == len(process.stdout.splitlines()) - 4
    *commands, last = (shlex.split(line.replace("RATE", "0.01")) for line in lines)
    assert last[2:] == ["report", "Results-controls"]
    assert all(command[:5] == ["python", "main.py", "tables", "run", "controls"] for command in commands)
    return [run for command in commands for run in runs_of(command[2:])]


def test_the_script_runs_each_control_of_both_quantizers(tmp_path, monkeypatch):
    monkeypatch.setenv("METAQUANT_PRETRAINED", str(tmp_path))
    monkeypatch.chdir(PROJECT)
    runs = printed_runs(tmp_path, "--set", "batch-size=64", EPOCHS="3")
    paths = {run.path for run in runs}
    assert len(paths) == 2 * (3 + 1 + 2 + 2 + 2 + 2 + 1 + 1 + 2)  # the sweep's best has its first trial twice in the list
    assert len(runs) == len(paths) + 2
    for run in runs:
        s = run.settings
        assert (s.epochs, s.batch_size, s.validation, s.bits) == (3, 64, 5000, 1)
        assert s.pretrained == str(tmp_path / "ResNet20-CIFAR10-pretrain.pth")
        assert s.init_lr == 0.01 or (s.backward, s.optimizer) == ("STE", "SGD")
    assert {run.settings.init_lr for run in runs} == {1e-3, 1e-2, 1e-1}
    frozen = [
        (run.settings.backward, run.settings.meta_init, run.settings.phi, run.trial)
        for run in runs
        if run.settings.freeze_phi_after == 0 and run.settings.quantizer == "BWN"
    ]
    assert frozen == [
        ("MultiFC", None, "RUN_DIR", 1),
        ("MultiFC", None, "RUN_DIR", 2),
        ("FC-Grad", "identity", None, 1),
        ("FC-Grad", "identity", None, 2),
        ("FC-Grad", "random", None, 1),
    ]
    one_each = printed_runs(tmp_path, TRIALS="1")
    assert {run.trial for run in one_each} == {1}
    assert {run.settings.epochs for run in one_each} == {100}


def trial(backward, lr, val, test, number=1, optimizer="SGD", **changes):
    """A finished trial of two epochs; the first has the best validation accuracy."""
    cell = DIGITS._replace(backward=backward, optimizer=optimizer)
    settings = settings_of(cell, number, 2, init_lr=lr, validation=30, batch_size=16, **changes)
    more = {"settings": settings, "val_acc": np.array([val, 1.0]), "made_by": "cpu, torch 2.15"}
    return make_trial([test, 99.0], cell, number, **more)


def sweep(rates, **scores):
    """First trials of STE; scores: of_<index of the rate>: best validation accuracy, and test accuracy at it."""
    found = [scores.get(f"of_{number}", (50, 50)) for number in range(len(rates))]
    return [trial("STE", lr, *each, exp_spec=f"grid-init-lr-{lr}") for lr, each in zip(rates, found, strict=True)]


def test_the_best_rate_is_chosen_by_validation_and_by_first_trials():
    trials = sweep((1e-3, 1e-2, 1e-1), of_0=(60, 90), of_1=(70, 50), of_2=(65, 80))
    assert controls.best_rate(trials, "dorefa") == 1e-2
    more = [*trials, trial("STE", 1e-2, 10, 10, number=2, exp_spec="grid-init-lr-0.01")]
    assert controls.best_rate(more, "dorefa") == 1e-2
    assert controls.best_rate(sweep((1e-1, 1e-2, 1e-3)), "dorefa") == 1e-3  # all are equal
    with pytest.raises(SystemExit, match="0 sweeps of STE with BWN"):
        controls.best_rate(trials, "BWN")


def gains_printed(out):
    """The last column of the table of what is stored, where it has a gain."""
    table = controls.cells_table(read_csv(out / controls.STORED), controls.read_gains(out))
    return [gain for line in table.splitlines()[2:] if (gain := line.strip("|").split("|")[-1].strip())]


def test_ms_gain_is_read_from_the_events(tmp_path):
    finished = [
        make_run(tmp_path / "R" / name, LEARNED, k, settings=settings_of(LEARNED, k, init_lr=0.1))
        for k, name in enumerate("ab", 1)
    ]
    with Recorder(tmp_path / "events") as recorder:
        for gain in (0.25, 7.0, 12345.0):
            recorder.update(loss=1.0, acc=50.0, batch_size=1)
            recorder.record_gradient(gain=gain, cosine=1.0, meta_lr=1e-3)
    for events in (tmp_path / "events").glob("events.*"):
        events.rename(finished[0] / events.name)
    assert controls.gain_of(finished[0]) == (0.25, 12345.0)
    assert controls.gain_of(finished[1]) is None
    out = tmp_path / "out"
    for _ in range(2):
        controls.collect([tmp_path / "R"], out)
        assert list(controls.read_gains(out).values()) == [(0.25, 12345.0)]
    assert gains_printed(out) == ["0.25 to 1.23e+04"]
    other = make_run(tmp_path / "other", LEARNED, 1, settings=settings_of(LEARNED, 1, init_lr=0.1, precision="bf16"))
    for events in finished[0].glob("events.*"):
        events.rename(other / events.name)
    controls.collect([tmp_path / "other"], out)
    assert gains_printed(out) == ["0.25 to 1.23e+04"] * 2  # a run with another precision takes no gain away
    make_run(tmp_path / "base" / "a", LEARNED, 1, settings=settings_of(LEARNED, 1, init_lr=0.1), base_model="f" * 64)
    controls.collect([tmp_path / "base"], out)
    assert len(read_csv(out / controls.STORED)) == 4  # nor does one with another base model replace it
    assert str(controls.Gain(1.0, 1.0)) == "1"


def test_what_is_collected_has_caption_table_and_curves(tmp_path, capsys, monkeypatch):
    trials = [
        *sweep((1e-2, 1e-1), of_0=(60, 90), of_1=(70, 50)),
        trial("STE", 1e-1, 72, 53, number=2, exp_spec="grid-init-lr-0.1"),
        *(trial("MultiFC", 1e-1, 75, test, number, hidden_size=100) for number, test in ((1, 61), (2, 62))),
    ]
    write_csv(trials, tmp_path / "runs.csv")
    failed = [trial("FC-Grad", 1e-1, 1, 1)]
    failed[0] = make_trial([1.0], failed[0].cell, settings=failed[0].settings, state="failed")
    write_csv(failed, tmp_path / "failed.csv")
    for _ in range(2):  # the second time each run replaces itself
        monkeypatch.setattr(
            sys, "argv", ["controls.py", str(tmp_path / "runs.csv"), str(tmp_path / "failed.csv"), "--out", str(tmp_path)]
        )
        controls.main()
        out, err = capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["controls.py", "--out", str(tmp_path / "empty")])
    with pytest.raises(SystemExit, match="nothing is stored"):
        controls.main()
    monkeypatch.setattr(sys, "argv", ["controls.py", str(tmp_path / "failed.csv"), "--out", str(tmp_path / "empty")])
    with pytest.raises(SystemExit, match=f"nothing is stored in {tmp_path / 'empty'}: "):
        controls.main()
    assert "skipped, because it is not a finished run" in err
    assert len(read_csv(tmp_path / controls.STORED)) == 5
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    first = out.splitlines()[0]
    assert first == (
        "ResNet20 Digits; 2 epochs, 16 images per batch, 30 validation images, float32; "
        "n = 1 to 2 trials per cell; cpu, torch 2.15."
    )
    assert "| ResNet20 Digits | dorefa SGD STE (init_lr 0.1) | 2 | 0.1 | 2 | 71.00 | 51.50 (50.00, 53.00) |" in out
    assert "| SGD (init_lr 0.1) | 2 | 0.1 | 2 | 51.50 | +10.00, p = " in out
    assert controls.precision(trial("STE", 1, 1, 1, precision="bf16")) == "bf16"


def test_titles_and_table_name_every_number_of_epochs_and_precision(tmp_path, monkeypatch):
    longer = DIGITS._replace(backward="FC-Grad")
    trials = [
        trial("STE", 1e-2, 60, 55),
        trial("STE", 1e-2, 60, 55, precision="bf16"),
        make_trial([50.0] * 4, longer, settings=settings_of(longer, epochs=4, init_lr=1e-2)),
    ]
    titles = []
    monkeypatch.setattr(controls, "curve_panels", lambda title, series: titles.append(title))
    monkeypatch.setattr(controls, "draw_curves", lambda *arguments: None)
    controls.draw(trials, tmp_path / "curves")
    assert titles == ["ResNet20 Digits dorefa, 2 and 4 epochs, float32 and bf16"]
    rows = [line.strip("| ").split(" | ") for line in controls.cells_table([trials[0], trials[2]], {}).splitlines()]
    assert [row[rows[0].index("epochs")] for row in rows[2:]] == ["2", "4"]


@pytest.mark.slow
def test_the_script_on_few_digits_and_again(tmp_path):
    program, python = tmp_path / "few_digits.py", tmp_path / "venv" / "bin" / "python"
    program.write_text(PROGRAM)
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\nif [ "$1" = main.py ]; then set -- {program} "${{@:2}}"; fi\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    base = tmp_path / "base"
    base.mkdir()
    torch.save(ResNet(8).state_dict(), base / "ResNet8-Digits-pretrain.pth")
    manifest = (PROJECT / "scripts" / "manifest_controls.toml").read_text()
    changes = {
        "CIFAR10": "Digits",
        "ResNet20": "ResNet8",
        "validation = 5000": "validation = 20",
        "batch-size = 128": "batch-size = 20",
    }
    for old, new in changes.items():
        manifest = manifest.replace(old, new)
    (tmp_path / "few.toml").write_text(manifest)
    environment = {
        "VENV": str(python.parent.parent),
        "METAQUANT_PRETRAINED": str(base),
        "RESULTS": str(tmp_path / "R"),
        "MANIFEST": str(tmp_path / "few.toml"),
        "MODEL": "ResNet8",
        "DATASET": "Digits",
        "EPOCHS": "1",
        "TRIALS": "1",
        "QUANTIZERS": "BWN",
    }
    process = script(environment, "--trials-per-device", "2", "--cpus-per-run", "1")
    assert process.returncode == 0, process.stderr
    records = [path.parent for path in (tmp_path / "R").rglob("run.json")]
    assert len(records) == 10
    answers = process.stdout.split("## Does the learned gradient help?")[1].split("\n## ")[0]
    rows = [line for line in answers.splitlines() if line.startswith("| ResNet8 Digits")]
    assert len(rows) == 5
    assert all(row.endswith("| too few trials |") for row in rows)
    for folder in records:
        phi = record_of(folder)["settings"]["phi"]
        if phi is not None:
            states = [load_tensors(Path(run) / "checkpoint.pth", "test")["loop"]["meta_net"] for run in (folder, phi)]
            torch.testing.assert_close(*states, rtol=0, atol=0)
    assert sum(record_of(folder)["settings"]["phi"] is not None for folder in records) == 1
    again = script(environment)
    assert again.returncode == 0, again.stderr
    assert again.stdout.split("## Results")[1:] == process.stdout.split("## Results")[1:]


def test_the_readme_has_what_is_stored():
    folder = PROJECT / "figs" / "controls"
    trials, text = read_csv(folder / "epochs.csv.xz"), (folder / "README.md").read_text()
    for part in (
        controls.caption(trials),
        controls.cells_table(trials, controls.read_gains(folder)),
        controls.answers_table(trials),
    ):
        assert part in text
    assert "curves.png" in text
    assert (folder / "curves.png").is_file()


def test_where_no_rate_can_be_chosen_the_script_says_so_and_fails(tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\nif [ "$1" != main.py ]; then exec {sys.executable} "$@"; fi\n')  # trains nothing
    python.chmod(0o755)
    (tmp_path / "ResNet20-CIFAR10-pretrain.pth").touch()
    environment = {"VENV": str(python.parent.parent), "METAQUANT_PRETRAINED": str(tmp_path), "RESULTS": str(tmp_path / "R")}
    (tmp_path / "R").mkdir()
    process = script(environment)
    assert process.returncode == 1
    failed = [line for line in process.stderr.splitlines() if line.startswith("failed: ")]
    assert failed == [f"failed: figs/controls.py {tmp_path / 'R'} --best-rate {quantizer}" for quantizer in ("dorefa", "BWN")]
