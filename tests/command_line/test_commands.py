"""The commands end to end on a tiny data set; on a GPU, whole runs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT

from main import COMMANDS
from utils.choices import MODELS
from utils.report.reading import find_trials
from utils.report.trials import group_trials


def test_main_alone_prints_help(call_main):
    outcome = call_main()
    assert outcome.code == 0
    for command in COMMANDS:
        assert command in outcome.out


def test_pretrain_train_evaluate_report(call_main, tmp_path, tiny_set):
    where = ["-d", tiny_set, "--results-root", tmp_path]
    outcome = call_main("pretrain", "-m", "ResNet20", "-n", 1, "-bs", 4, *where)
    assert outcome.code == 0, outcome.err
    folder = tmp_path / "ResNet20-NPZ-tiny"
    base = folder / "ResNet20-NPZ-tiny-pretrain.pth"
    assert f"wrote {base}" in outcome.out
    assert call_main("train", "-m", "ResNet20", "-n", 1, "-bs", 4, "-bw", 2, *where).code == 0
    (run,) = (folder / "runs-Quant").iterdir()
    assert json.loads((run / "run.json").read_text())["settings"]["pretrained"] == str(base)

    outcome = call_main("evaluate", run)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    test_acc = float((run / "test-acc.txt").read_text().split(", ")[1])
    assert lines[0].startswith(f"top-1 {test_acc:.2f} %  top-5 100.00 %  loss ")
    assert len(lines) == 24
    assert lines[1].split()[0] == "conv1"
    assert "4 values: -1, -0.3333, 0.3333, 1" in lines[1]

    outcome = call_main("evaluate", base, "-m", "ResNet20", "-d", tiny_set)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("top-1 ")
    assert call_main("evaluate", folder / "pretrain-trial-1").out == outcome.out

    outcome = call_main("report", tmp_path, "--out", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    assert f"| ResNet20 NPZ-tiny | dorefa SGD MultiFC (batch_size 4, bits 2) | 1 | 1 | {test_acc:.2f} |" in outcome.out
    assert "| ResNet20 NPZ-tiny | full precision (batch_size 4) | 1 | 1 |" in outcome.out
    assert (tmp_path / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_two_cells_with_two_trials_become_a_report(call_main, tmp_path, tiny_set):
    flags = ["-m", "ResNet8", "-d", tiny_set, "-n", 2, "-bs", 4, "--pretrained", "none"]
    for trial in (1, 2):
        for method in ("STE", "FC-Grad"):
            root = tmp_path / f"machine-{trial}"
            outcome = call_main("train", *flags, "-meta", method, "-o", "Adam", "--trial", trial, "--results-root", root)
            assert outcome.code == 0, outcome.err
    outcome = call_main("report", tmp_path / "machine-1", tmp_path / "machine-2", "--out", tmp_path / "report")
    assert (outcome.code, outcome.err.partition(":")[0]) == (0, f"wrote {tmp_path / 'report'}")
    label = "(batch_size 4, from scratch)"
    assert f"| ResNet8 NPZ-tiny | dorefa Adam STE {label} | 2 |" in outcome.out.split("## Other cells")[1]
    claims = outcome.out.split("## Method minus baseline")[1]
    assert f"| ResNet8 NPZ-tiny | dorefa Adam FC-Grad {label} | STE {label} | 2, 2 |" in claims
    assert outcome.out.split("## Fairness")[1].count("NPZ-tiny") == 4  # two rows, method and baseline named in each
    assert "| bias_corrected_eps | off | true |" in outcome.out
    assert "| weight_decay | 0.0005 | 0.0 |" in outcome.out
    for name in ("curves.png", "curves.svg", "flips.png", "flip_map_2.svg", "claims.csv", "claims.tex", "runs.csv.xz"):
        assert (tmp_path / "report" / name).stat().st_size > 100


def test_runs_from_different_base_models_of_one_name_are_told_apart(call_main, tmp_path, tiny_set, base_model):
    other = tmp_path / "other" / base_model.name
    other.parent.mkdir()
    torch.save(MODELS.load("ResNet8")(num_classes=2).state_dict(), other)
    command = ["train", "-m", "ResNet8", "-d", tiny_set, "-n", 1, "-bs", 4, "-meta", "STE"]
    for trial, base in enumerate((base_model, other), start=1):
        outcome = call_main(*command, "--trial", trial, "--pretrained", base, "--results-root", tmp_path / "R")
        assert outcome.code == 0, outcome.err
    (group, another), _ = group_trials(find_trials([tmp_path / "R"])[0], lambda cell: None)
    assert group.label.startswith("base_model ")
    assert another.label.startswith("base_model ")
    assert group.label != another.label
    for base in (other, base_model):
        outcome = call_main(*command, "--pretrained", base, "--results-root", tmp_path / "R")
        if base == other:
            assert outcome.code == 2
            assert f"began with weights other than what {other} holds now" in outcome.err
        else:
            assert "is done" in outcome.out


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["STE", "MultiFC", "LSTMFC"])
def test_a_run_on_cuda_with_graphs_is_the_eager_one_and_can_be_cut_off(method, tmp_path):
    """Three epochs with two drops of the learning rate; in float32 single signs of 1-bit weights may differ."""
    losses = {}
    for name, calls in {"graphs": [[]], "eager": [["--eager"]], "cut off": [["--stop-after", "17"], []]}.items():
        for flags in calls:
            command = ["main.py", "train", "-m", "ResNet20", "-d", "Digits", "-meta", method, "-n", "3", "-ad", "1"]
            command += ["--device", "cuda", "--pretrained", "none", "--results-root", tmp_path / name, *flags]
            subprocess.run([sys.executable, *command], cwd=PROJECT, check=True)
        (log,) = (tmp_path / name).rglob("loss.txt")
        losses[name] = np.loadtxt(log, delimiter=",")
        assert json.loads((log.parent / "run.json").read_text())["captured"] == (name != "eager")
    for other in ("eager", "cut off"):
        np.testing.assert_allclose(losses["graphs"], losses[other], rtol=0.02)


def test_a_base_model_is_trained_by_sgd_with_momentum_and_the_given_decay(call_main, tmp_path, tiny_set):
    where = ["-d", tiny_set, "--results-root", tmp_path]
    assert call_main("pretrain", "-m", "ResNet8", "-n", 1, "-bs", 4, "--weight-decay", 0.01, *where).code == 0
    (record,) = tmp_path.rglob("run.json")
    optimizer = json.loads(record.read_text())["optimizers"]["net"]
    assert optimizer == {"momentum": 0.9, "dampening": 0.0, "weight_decay": 0.01, "nesterov": False}
