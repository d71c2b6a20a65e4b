"""Nets by name, of the project, of torchvision and of one's own; layers in full precision; each by its name everywhere."""

import json
import re

import pytest
import torch
from resumed import only_run
from torch import nn
from torchvision import models

from utils.choices import MODELS
from utils.report.reading import find_trials

NET, LABEL = "torchvision:shufflenet_v2_x0_5", "torchvision-shufflenet_v2_x0_5"  # the smallest of torchvision's
KEPT = ["--keep", "conv1.0", "fc"]


class Flat(nn.Sequential):
    """One's own net."""

    def __init__(self, num_classes):
        super().__init__(nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(64, num_classes))


@pytest.fixture
def flat(monkeypatch, tiny_set, tmp_path):
    """The arguments of a run of Flat of two iterations, from scratch."""
    monkeypatch.setitem(MODELS, "flat", Flat)
    return ["train", "-m", "flat", "-d", tiny_set, "-n", 1, "-bs", 4, "--pretrained", "none", "--results-root", tmp_path / "R"]


def test_a_classifier_of_torchvision_from_base_model_to_report(call_main, tmp_path, tiny_set):
    where = ["-d", tiny_set, "-n", 1, "-bs", 4, "--results-root", tmp_path]
    folder = tmp_path / f"{LABEL}-NPZ-tiny"
    base = folder / f"{LABEL}-NPZ-tiny-pretrain.pth"
    outcome = call_main("pretrain", "-m", NET, *where)
    assert outcome.code == 0, outcome.err
    assert f"wrote {base}" in outcome.out
    outcome = call_main("train", "-m", NET, *where, *KEPT)
    assert outcome.code == 0, outcome.err
    run = only_run(folder / "runs-Quant")
    assert re.fullmatch(r"Meta-MultiFC-.*-1bits-lr-30-keep-conv1\.0\+fc-trial-1", run.name)
    settings = json.loads((run / "run.json").read_text())["settings"]
    assert (settings["model"], settings["keep"], settings["pretrained"]) == (NET, ["conv1.0", "fc"], str(base))

    lines = call_main("evaluate", run).out.splitlines()
    assert lines[0].startswith(f"top-1 {float((run / 'test-acc.txt').read_text().split(', ')[1]):.2f} %")
    layers = [name for name, m in MODELS.load(NET)(num_classes=2).named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [line.split()[0] for line in lines[1:-1]] == [name for name in layers if name not in ("conv1.0", "fc")]
    assert all("2 values: -1, 1; 1 bit, scale 1" in line for line in lines[1:-1])
    others = sum(p.numel() for p in MODELS.load(NET)(num_classes=2).parameters() if p.dim() == 1)
    assert lines[-1].split(maxsplit=2)[2] == f"conv1.0, fc, {24 * 27 + 2 * 1024} weights; everything else, {others} parameters"
    outcome = call_main("evaluate", base, "-m", NET, "-d", tiny_set)
    assert (outcome.code, len(outcome.out.splitlines())) == (0, 2)

    report = call_main("report", tmp_path).out
    assert f"| {NET} NPZ-tiny | dorefa SGD MultiFC (batch_size 4, keep conv1.0 fc) | 1 | 1 |" in report
    assert f"| {NET} NPZ-tiny | full precision (batch_size 4) | 1 | 1 |" in report
    (run / "run.json").unlink()  # then the folders' names say what it is
    trials, _ = find_trials([run])
    assert [str(trial.cell) for trial in trials] == [f"{NET} NPZ-tiny dorefa SGD MultiFC"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-m", "torchvision:resnet19"], ["-m/--model: unknown net torchvision:resnet19: ", "closest: resnet18"]),
        (["-m", "torchvision:"], ["-m/--model", "torchvision:NAME", "'torchvision:'"]),
        (["-m", "torchvision:../up"], ["-m/--model", "torchvision:NAME", "'torchvision:../up'"]),
        (["-m", "torchvision:" + "x" * 81], ["-m/--model", "torchvision:NAME"]),
        (["-m", "resnet18"], ["-m/--model", "ResNet20", "VGG-small, LABNet", "torchvision:NAME", "'resnet18'"]),
        (["--pretrained", "none", "-m", "torchvision:alexnet"], ["-m torchvision:alexnet: this net cannot take 32x32 images"]),
        (["--pretrained", "none", "-m", NET, "-bs", "7"], [f"-m {NET}: this net cannot train on a batch of one image", "-bs"]),
        (["--pretrained", "none", "--keep", "conv9", "fc"], ["-m ResNet8 --keep conv9 fc: ", "'conv9'", "layer1.0.conv1"]),
        (["--pretrained", "none", "--keep", "*"], ["-m ResNet8 --keep *: ", "leaves no layer"]),
        (["--keep", "a b"], ["--keep", "pattern", "'a b'"]),
        (["--keep"], ["--keep", "at least one argument"]),
    ],
    ids=lambda x: " ".join(x)[-40:],
)
def test_what_cannot_be_trained_is_one_clear_line(arguments, words, refuses, tmp_path, tiny_set, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses(["train", "-m", "ResNet8", "-d", tiny_set, *arguments], words)


def test_pretrain_and_evaluate_refuse_an_unknown_net(refuses, tiny_set, base_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unknown = ["-m", "torchvision:resnet19", "-d", tiny_set]
    refuses(["pretrain", *unknown], ["unknown net torchvision:resnet19"])
    refuses(["evaluate", base_model, *unknown], ["unknown net torchvision:resnet19"])
    refuses(["benchmark", "--models", "torchvision:resnet19", "--iterations", 1], ["unknown net torchvision:resnet19"])


def test_state_dicts_of_torchvision_are_base_models(call_main, tmp_path, tiny_set):
    """Of as many classes, in the usual wrappings; of another number, the classifier is named."""
    torch.manual_seed(0)
    weights = models.shufflenet_v2_x0_5(num_classes=2).state_dict()
    parallel = {"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 90}
    for name, content in {"plain": weights, "parallel": parallel}.items():
        torch.save(content, tmp_path / f"{name}.pth")
    evaluations = [call_main("evaluate", tmp_path / f"{name}.pth", "-m", NET, "-d", tiny_set) for name in ("plain", "parallel")]
    assert [outcome.code for outcome in evaluations] == [0, 0]
    assert evaluations[0].out == evaluations[1].out
    torch.save(models.shufflenet_v2_x0_5().state_dict(), tmp_path / "imagenet.pth")
    outcome = call_main("train", "-m", NET, "-d", tiny_set, "--pretrained", tmp_path / "imagenet.pth", "-bs", 4)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert f"--pretrained (-m {NET} -d {tiny_set}): " in line
    assert "fc.weight has shape (1000, 1024), not (2, 1024) (and 1 more)" in line


def test_ones_own_net_needs_one_line(call_main, flat, tmp_path):
    outcome = call_main(*flat)
    assert outcome.code == 0, outcome.err
    outcome = call_main("evaluate", only_run(tmp_path / "R" / "flat-NPZ-tiny"))
    assert [line.split()[0] for line in outcome.out.splitlines()[1:]] == ["0", "4", "full"]


def test_a_run_with_other_layers_in_full_precision_is_another_run(call_main, flat, tmp_path):
    assert call_main(*flat, "--keep", "0").code == 0
    run = only_run(tmp_path / "R")
    assert "is done" in call_main(*flat, "--keep", "0", "0").out
    assert call_main(*flat).code == 0  # in a folder of its own
    record = json.loads((run / "run.json").read_text())
    record["settings"]["keep"] = ["4"]
    (run / "run.json").write_text(json.dumps(record))
    outcome = call_main(*flat, "--keep", "0")
    assert outcome.code == 2
    assert "has other settings: keep 4 there and 0 here" in outcome.err
    outcome = call_main("evaluate", run)
    assert outcome.code == 2
    assert "keep 0 there and 4 here" in outcome.err


def test_a_net_with_random_layers_resumes_where_it_was_cut_off(call_main, flat, tmp_path):
    """Dropout draws from the generators whose states the checkpoint holds; trying the net draws nothing."""
    whole, parts = [*flat[:-1], tmp_path / "whole"], [*flat[:-1], tmp_path / "parts"]
    assert call_main(*whole).code == 0
    assert call_main(*parts, "--stop-after", 1).code == 0
    assert call_main(*parts).code == 0
    logs = [(only_run(tmp_path / name) / "loss.txt").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
