"""The command line: every flag, bad input, and the commands end to end on a tiny data set."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from main import COMMANDS
from models_CIFAR.quantized_meta_resnet import MODELS
from utils.options import FLAGS, build_parser, flags_without_effect
from utils.results import find_trials
from utils.trials import group_trials

PROJECT = Path(__file__).resolve().parent.parent


class Result:
    """What a finished training run left behind."""

    def __init__(self, path):
        self.path = path
        self.record = json.loads((path / "run.json").read_text())
        self.logs = {name: (path / f"{name}.txt").read_text() for name in ("loss", "train-acc", "test-acc", "lr")}
        self.state = torch.load(path / "checkpoint.pth", weights_only=True)

    def behaviour(self, what):
        if what in ("net", "meta_net"):
            return [(name, tuple(value.shape), value.tolist()) for name, value in self.state["loop"][what].items()]
        return self.logs[what]


@pytest.fixture(scope="module")
def base_model(tmp_path_factory, tiny_set):
    """A base model of ResNet20 for the tiny set, at random."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("base") / "base.pth"
    torch.save(MODELS["ResNet20"](num_classes=2).state_dict(), path)
    return path


@pytest.fixture
def train(call_main, tmp_path, tiny_set, base_model):
    """train(*flags): two epochs of two iterations into a folder of its own; returns its Result."""
    counter = iter(range(100))

    def run(*flags):
        root = tmp_path / str(next(counter))
        arguments = ["-m", "ResNet20", "-d", tiny_set, "-bs", 4, "-n", 2, "-lr", 0.05, "--meta-lr", 0.1]
        if "STE" in flags:
            arguments = arguments[:-2]
        arguments += ["--pretrained", base_model, "--results-root", root, *flags]
        outcome = call_main("train", *arguments)
        assert outcome.code == 0, outcome.err
        (record,) = root.rglob("run.json") if "--results-root" not in flags else (tmp_path / "elsewhere").rglob("run.json")
        return Result(record.parent)

    return run


FLAG_CASES = [  # flags, what both runs share, setting in run.json, its value, where the behaviour differs
    (["-q", "BWN"], [], "quantizer", "BWN", "loss"),
    (["-q", "BWN-F"], ["-q", "BWN"], "quantizer", "BWN-F", "loss"),
    (["-bw", "2"], [], "bits", 2, "loss"),
    (["-o", "SGD-M"], [], "optimizer", "SGD-M", "loss"),
    (["-o", "Nesterov"], ["-o", "SGD-M"], "optimizer", "Nesterov", "loss"),
    (["-o", "Adam"], [], "optimizer", "Adam", "loss"),
    (["-o", "AMSGrad"], ["-o", "Adam"], "optimizer", "AMSGrad", "net"),
    (["-meta", "STE"], ["-meta", "FC-Grad"], "backward", "STE", "loss"),
    (["-meta", "FC-Grad"], [], "backward", "FC-Grad", "net"),
    (["-meta", "LSTMFC", "-hidden", "4"], ["-hidden", "4"], "backward", "LSTMFC", "net"),
    (["-hidden", "7"], [], "hidden_size", 7, "meta_net"),
    (["-nfc", "2"], [], "num_fc", 2, "meta_net"),
    (["-nlstm", "2"], ["-meta", "LSTMFC", "-hidden", "4"], "num_lstm", 2, "meta_net"),
    (["-nonlinear", "relu"], [], "meta_nonlinear", "relu", "net"),
    (["-nonlinear", "tanh"], ["-hidden", "4"], "meta_nonlinear", "tanh", "net"),
    (["-lr", "0.2"], [], "init_lr", 0.2, "lr"),
    (["-ad", "1"], [], "lr_adjust", 1, "lr"),
    (["-ad", "adaptive"], [], "lr_adjust", "adaptive", None),
    (["-n", "1"], [], "epochs", 1, "test-acc"),
    (["-bs", "8"], [], "batch_size", 8, "loss"),
    (["--drop-last"], ["-bs", "3"], "drop_last", True, "loss"),
    (["-e", "mine"], [], "exp_spec", "mine", None),
    (["-decay", "0.5"], [], "meta_weight_decay", 0.5, "meta_net"),
    (["--meta-lr", "0.01"], [], "meta_lr", 0.01, "net"),
    (["--meta-lr-adjust"], ["-ad", "1"], "meta_lr_adjust", True, "meta_net"),
    (["--weight-decay", "0.5"], [], "weight_decay", 0.5, "net"),
    (["--meta-init", "identity"], [], "meta_init", "identity", "net"),
    (["--lstm-state", "reset"], ["-meta", "LSTMFC", "-hidden", "4"], "lstm_state", "reset", "net"),
    (["--update-order", "paper"], [], "update_order", "paper", "loss"),
    (["--trial", "2"], [], "trial", 2, "loss"),
    (["--seed", "1"], [], "seed", 1, "loss"),
    (["--pretrained", "none"], [], "pretrained", "none", "loss"),
    (["--loader", "torchvision"], [], "loader", "torchvision", "loss"),
]


@pytest.mark.parametrize(
    ("flags", "shared", "key", "value", "differs"), FLAG_CASES, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_every_training_flag_changes_what_it_says(flags, shared, key, value, differs, train):
    plain, changed = train(*shared), train(*shared, *flags)
    assert changed.record["settings"][key] == value
    assert plain.record["settings"][key] != value
    assert changed.record["state"] == "done"
    if differs is not None:
        assert changed.behaviour(differs) != plain.behaviour(differs)


def test_flags_of_place_and_hand(train, tmp_path, monkeypatch):
    """Flags that change where or how, not what: the numbers stay."""
    plain = train()
    for flags, key in (
        [["--stop-after", "1000"], "stop_after"],
        [["--device", "cpu"], "device"],
        [["--data-root", str(tmp_path)], "data_root"],
        [["--checkpoint-every", "1it"], "checkpoint_every"],
    ):
        other = train(*flags)
        assert str(other.record["settings"][key]) == flags[1]
        assert other.logs == plain.logs
    for flag in ("deterministic", "tf32", "eager"):  # on CUDA they change something
        other = train(f"--{flag}")
        assert other.record["settings"][flag] is True
        assert other.logs == plain.logs
    by_torchvision, with_workers = train("--loader", "torchvision"), train("--loader", "torchvision", "--workers", "1")
    assert with_workers.record["settings"]["workers"] == 1
    assert with_workers.logs == by_torchvision.logs
    elsewhere = train("--results-root", str(tmp_path / "elsewhere"))
    assert elsewhere.logs == plain.logs


def test_the_same_command_gives_the_same_numbers_and_ste_shares_its_data_order(train):
    first, second = train(), train()
    assert first.logs == second.logs
    assert first.behaviour("net") == second.behaviour("net")
    ste = train("-meta", "STE")
    assert ste.logs["loss"].splitlines()[0] == first.logs["loss"].splitlines()[0]  # t = 0: same start, same batch


def test_settings_that_do_not_apply_are_null_and_named(call_main, tmp_path, tiny_set):
    outcome = call_main(
        "train",
        "-m",
        "ResNet20",
        "-d",
        tiny_set,
        "-meta",
        "STE",
        "-hidden",
        "5",
        "-n",
        "1",
        "--pretrained",
        "none",
        "--results-root",
        tmp_path,
    )
    assert outcome.code == 0
    assert "note: --hidden-size has no effect with --backward STE" in outcome.err
    (record,) = tmp_path.rglob("run.json")
    settings = json.loads(record.read_text())["settings"]
    assert [settings[key] for key in ("hidden_size", "num_fc", "meta_lr", "update_order")] == [None] * 4
    assert record.parent.name == "Baseline-dorefa-optimizer-SGD-1bits-lr-30-trial-1"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("train -m ResNet20 -d Digits -meta STE -hidden 5 --meta-lr 1", ["--hidden-size", "--meta-lr"]),
        ("train -m ResNet20 -d Digits -meta MultiFC -nlstm 2 --lstm-state reset", ["--num-lstm", "--lstm-state"]),
        ("train -m ResNet20 -d Digits --workers 2 --device cpu --eager --tf32", ["--workers", "--tf32", "--eager"]),
        ("train -m ResNet20 -d Digits --workers 2 --loader torchvision --device cuda --tf32", []),
        ("train -m ResNet20 -d Digits --loader torchvision --device cuda --eager", ["--eager"]),
        ("pretrain -m ResNet20 -d Digits --device cpu --deterministic", ["--deterministic"]),
        ("benchmark --scale --repeats 3 --device cpu", ["--repeats", "--device"]),
        ("benchmark --repeats 3 --device cpu", []),
        ("tables status all --jobs 2 --address auto --dry-run", ["--jobs", "--address", "--dry-run"]),
        ("tables run all --jobs 2 --address auto", ["--address"]),
        ("tables run all --engine ray --address auto", []),
        ("evaluate . -m ResNet20", ["--model"]),
        ("evaluate base.pth -m ResNet20", []),
    ],
)
def test_flags_that_do_nothing_are_named(command, named):
    notes = flags_without_effect(build_parser(COMMANDS).parse_args(command.split()))
    assert [note.split()[0] for note in notes] == named
    assert all(" has no effect " in note for note in notes)


@pytest.mark.parametrize(
    ("flags", "decay"),
    [
        (["-o", "Adam", "-meta", "STE"], 0.0),
        (["-o", "Adam"], 5e-4),
        (["-o", "SGD"], 0.0),
        (["-o", "SGD-M", "-meta", "STE"], 5e-4),
        (["-o", "Adam", "-meta", "STE", "--weight-decay", "0.1"], 0.1),
    ],
)
def test_default_weight_decay_is_the_published_one(flags, decay, train):
    assert train(*flags).record["settings"]["weight_decay"] == decay


def test_run_folders_and_files(train):
    run = train("-meta", "LSTMFC", "-hidden", "4", "-q", "BWN", "-o", "Adam", "-ad", "1", "-e", "try", "--trial", "3")
    assert run.path.name == "Meta-LSTMFC-Nonlinear-None-hidden-size-4-nlstm-1-BWN-Adam-1bits-lr-1-try-trial-3"
    assert run.path.parent.name == "runs-Quant"
    assert run.path.parent.parent.name == "ResNet20-NPZ-tiny"
    assert train("-meta", "FC-Grad", "-nonlinear", "relu").path.name == (
        "Meta-FC-Grad-Nonlinear-relu-hidden-size-100-dorefa-SGD-1bits-lr-30-trial-1"
    )
    assert train().path.name == "Meta-MultiFC-Nonlinear-None-hidden-size-100-nfc-3-dorefa-SGD-1bits-lr-30-trial-1"
    rows = {name: [row.split(", ") for row in log.splitlines()] for name, log in run.logs.items()}
    assert [row[0] for row in rows["loss"]] == [row[0] for row in rows["lr"]] == ["0", "1", "2", "3"]
    assert [row[1] for row in rows["lr"]] == ["0.05", "0.05", "0.005", "0.005"]
    assert [row[0] for row in rows["test-acc"]] == ["1", "2"]
    assert list(run.path.glob("events.out.tfevents*"))
    record = run.record
    assert {"versions", "device", "git", "hostname", "command", "started", "ended", "seconds_per_epoch", "peak_memory"} <= set(
        record
    )
    assert len(record["seconds_per_epoch"]) == 2
    assert record["peak_memory"]["cpu_rss"] > 1e8
    assert record["versions"]["torch"] == torch.__version__
    assert record["result"]["top1"] == pytest.approx(float(rows["test-acc"][-1][1]))


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
    assert len(lines) == 23
    assert lines[1].split()[0] == "conv1"
    assert "4 values: -1, -0.3333, 0.3333, 1" in lines[1]

    outcome = call_main("evaluate", base, "-m", "ResNet20", "-d", tiny_set)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("top-1 ")
    assert call_main("evaluate", folder / "pretrain-trial-1").out == outcome.out

    outcome = call_main("report", tmp_path, "--out", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    assert f"| ResNet20 NPZ-tiny | dorefa SGD MultiFC | 1 | 1 | {test_acc:.2f} |" in outcome.out
    assert "| ResNet20 NPZ-tiny | full precision | 1 | 1 |" in outcome.out
    assert (tmp_path / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_two_cells_with_two_trials_become_a_report(call_main, tmp_path, tiny_set):
    flags = ["-m", "ResNet20", "-d", tiny_set, "-n", 2, "-bs", 4, "--pretrained", "none"]
    for trial in (1, 2):
        for method in ("STE", "FC-Grad"):
            root = tmp_path / f"machine-{trial}"
            outcome = call_main("train", *flags, "-meta", method, "-o", "Adam", "--trial", trial, "--results-root", root)
            assert outcome.code == 0, outcome.err
    outcome = call_main("report", tmp_path / "machine-1", tmp_path / "machine-2", "--out", tmp_path / "report")
    assert (outcome.code, outcome.err) == (0, "")
    assert "| ResNet20 NPZ-tiny | dorefa Adam STE | 2 |" in outcome.out.split("## Other cells")[1]
    assert "| ResNet20 NPZ-tiny | dorefa Adam FC-Grad | 2, 2 |" in outcome.out.split("## Learned gradient minus STE")[1]
    assert outcome.out.split("## Fairness")[1].count("NPZ-tiny") == 2  # one row: the decay, method and baseline named
    assert "| weight_decay | 0.0005 | 0.0 |" in outcome.out
    for name in ("curves.png", "curves.svg", "claims.csv", "claims.tex", "runs.csv.xz"):
        assert (tmp_path / "report" / name).stat().st_size > 100


def test_runs_from_different_base_models_of_one_name_are_told_apart(call_main, tmp_path, tiny_set, base_model):
    other = tmp_path / "other" / base_model.name
    other.parent.mkdir()
    torch.save(weights_of("ResNet20", 2), other)
    command = ["train", "-m", "ResNet20", "-d", tiny_set, "-n", 1, "-bs", 4, "-meta", "STE"]
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
            assert f"began from another base model than {other} is now" in outcome.err
        else:
            assert "is done" in outcome.out


def test_main_alone_prints_help(call_main):
    outcome = call_main()
    assert outcome.code == 0
    for command in FLAGS:
        assert command in outcome.out


TRAIN = ["train", "-m", "ResNet20", "-d", "{set}", "--pretrained", "none", "-n", "1"]
BAD_INPUT = [  # arguments, words that the one line must hold
    (["fly"], ["fly", "train"]),
    (["train", "-m", "ResNet20"], ["-d/--dataset"]),
    ([*TRAIN, "-m", "ResNet21"], ["-m/--model", "ResNet21", "ResNet110"]),
    ([*TRAIN, "-d", "MNIST"], ["-d/--dataset", "MNIST", "CIFAR10", "NPZ:path"]),
    ([*TRAIN, "-q", "TWN"], ["-q/--quantizer", "TWN", "BWN-F"]),
    ([*TRAIN, "-o", "Lion"], ["-o/--optimizer", "Lion", "SGD-M"]),
    ([*TRAIN, "-meta", "RNN"], ["-meta/--backward", "RNN", "LSTMFC"]),
    ([*TRAIN, "-nonlinear", "gelu"], ["-nonlinear/--meta-nonlinear", "gelu", "tanh"]),
    ([*TRAIN, "--meta-init", "zero"], ["--meta-init", "zero", "identity"]),
    ([*TRAIN, "--lstm-state", "keep"], ["--lstm-state", "keep", "reset"]),
    ([*TRAIN, "--update-order", "mine"], ["--update-order", "mine", "paper"]),
    ([*TRAIN, "-bw", "0"], ["-bw/--bits", "from 1 to 8", "'0'"]),
    ([*TRAIN, "-bw", "9"], ["-bw/--bits", "from 1 to 8", "'9'"]),
    ([*TRAIN, "-bw", "2", "-q", "BWN"], ["-bw/--bits 2", "1 bit"]),
    ([*TRAIN, "-lr", "-1"], ["-lr/--init-lr", "above 0", "'-1'"]),
    ([*TRAIN, "-lr", "nan"], ["-lr/--init-lr", "above 0", "'nan'"]),
    ([*TRAIN, "-lr", "fast"], ["-lr/--init-lr", "above 0", "'fast'"]),
    ([*TRAIN, "-n", "0"], ["-n/--epochs", "at least 1", "'0'"]),
    ([*TRAIN, "-n", "1.5"], ["-n/--epochs", "at least 1", "'1.5'"]),
    ([*TRAIN, "-bs", "0"], ["-bs/--batch-size", "at least 1"]),
    ([*TRAIN, "-ad", "0"], ["-ad/--lr-adjust", "adaptive", "'0'"]),
    ([*TRAIN, "-hidden", "0"], ["-hidden/--hidden-size", "at least 1"]),
    ([*TRAIN, "-nfc", "-3"], ["-nfc/--num-fc", "at least 1"]),
    ([*TRAIN, "-nlstm", "x"], ["-nlstm/--num-lstm", "at least 1", "'x'"]),
    ([*TRAIN, "-decay", "-1"], ["-decay/--meta-weight-decay", "at least 0"]),
    ([*TRAIN, "--meta-lr", "0"], ["--meta-lr", "above 0"]),
    ([*TRAIN, "--weight-decay", "inf"], ["--weight-decay", "at least 0"]),
    ([*TRAIN, "--trial", "0"], ["--trial", "at least 1"]),
    ([*TRAIN, "--seed", "-1"], ["--seed", "at least 0"]),
    ([*TRAIN, "--workers", "-1"], ["--workers", "at least 0"]),
    ([*TRAIN, "--checkpoint-every", "0"], ["--checkpoint-every", "100it", "'0'"]),
    ([*TRAIN, "--device", "tpu"], ["--device", "cuda:N", "'tpu'"]),
    ([*TRAIN, "--device", "cuda:99"], ["--device cuda:99", "CUDA devices"]),
    ([*TRAIN, "-e", "../up"], ["-e/--exp-spec", "'../up'"]),
    ([*TRAIN, "-e", "a/b"], ["-e/--exp-spec", "'a/b'"]),
    ([*TRAIN, "--unheard-of"], ["--unheard-of"]),
    ([*TRAIN, "--pretrained", "{root}/absent.pth"], ["--pretrained", "absent.pth", "main.py pretrain -m ResNet20 -d"]),
    (
        [*TRAIN, "-meta", "FC-Grad", "-hidden", "1", "-nonlinear", "relu", "--meta-init", "identity"],
        ["--backward FC-Grad", "hidden_size"],
    ),
    ([*TRAIN, "-d", "NPZ:{root}/absent.npz"], ["--dataset NPZ:", "absent.npz", "no such file"]),
    ([*TRAIN, "-d", "CIFAR10", "--data-root", "{root}/nothing"], ["--data-root", "CIFAR10", "cifar-10-python.tar.gz"]),
    ([*TRAIN, "--results-root", "{file}"], ["--results-root", "cannot make"]),
    (["benchmark", "--out", "{root}/nowhere/found.json"], ["--out", "nowhere"]),
    (["tables", "run", "all", "--pretrained-root", "{root}/nowhere"], ["--pretrained-root", "nowhere", "no such folder"]),
    (["tables", "run", "all", "--engine", "slurm", "--dry-run", "--jobs", "2"], ["--jobs 2", "--trials-per-device 1"]),
    (["tables", "run", "all", "--set", "foo=1"], ["--set foo=1", "--foo"]),
    (["evaluate", "{root}/nowhere"], ["nowhere", "no such folder or file"]),
    (["evaluate", "{file}"], ["test_main.py", "-m/--model"]),
    (["evaluate", "{file}", "-m", "ResNet20", "-d", "{set}"], ["-m ResNet20", "test_main.py"]),
    (["evaluate", "{root}"], ["run.json"]),
    (["report", "{root}"], ["no runs"]),
    (["pretrain", "-m", "ResNet20", "-d", "{set}", "-n", "0"], ["-n/--epochs"]),
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT, ids=lambda x: " ".join(x)[-60:])
def test_bad_input_is_one_clear_line(arguments, words, refuses, tmp_path, tiny_set, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses([argument.format(set=tiny_set, root=tmp_path, file=__file__) for argument in arguments], words)


def weights_of(model, classes, **changes):
    state = MODELS[model](num_classes=classes).state_dict() | changes
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: weights_of("ResNet32", 2), ["layer1.3.conv1.weight is unexpected", "and"]),
        (lambda: weights_of("ResNet20", 10), ["fc.weight has shape (10, 64), not (2, 64)"]),
        (lambda: weights_of("ResNet20", 2, **{"bn1.weight": None}), ["bn1.weight is missing"]),
        (lambda: {"net": weights_of("ResNet20", 2)}, ["not a plain state dict"]),
        (lambda: [1, 2], ["not a plain state dict"]),
        (lambda: b"", ["not a readable file"]),
        (lambda: b"\x80\x02garbage", ["not a readable file"]),
    ],
)
def test_a_base_model_for_another_net_is_refused(content, words, call_main, tmp_path, tiny_set, tally):
    content, path = content(), tmp_path / "base.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    outcome = call_main("train", "-m", "ResNet20", "-d", tiny_set, "--pretrained", path, "--results-root", tmp_path / "R")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert "--pretrained (-m ResNet20" in line
    for word in words:
        assert word in line
    assert [p.name for p in tmp_path.iterdir()] == ["base.pth"]
    tally("base model of another net, damaged or no state dict: refused")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_pickled_code_in_a_base_model_does_not_run(call_main, tmp_path, tiny_set, tally):
    path, trace = tmp_path / "base.pth", tmp_path / "trace"
    torch.save({"conv1.weight": Malicious(str(trace))}, path)
    outcome = call_main("train", "-m", "ResNet20", "-d", tiny_set, "--pretrained", path, "--results-root", tmp_path / "R")
    assert outcome.code == 2
    assert "not a readable file of plain tensors" in outcome.err
    assert not trace.exists()
    tally("pickled code in a base model: refused, not run")


def test_a_loss_that_is_not_finite_stops_the_run(call_main, tmp_path, tiny_set):
    """As a user meets it: a process of its own."""
    arguments = ["-m", "ResNet20", "-d", tiny_set, "-n", "3", "-lr", "1e38", "-bs", "4", "--pretrained", "none"]
    process = subprocess.run(
        [sys.executable, PROJECT / "main.py", "train", *arguments, "--results-root", tmp_path], capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("main.py: error: the training loss is ")
    assert "at iteration" in process.stderr
    assert " in layer " in process.stderr
    assert "the last good checkpoint is " in process.stderr
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["state"] == "failed"


def test_short_flags_of_the_released_scripts_parse():
    args = build_parser(COMMANDS).parse_args(
        [
            "train",
            "-m",
            "ResNet32",
            "-d",
            "CIFAR10",
            "-q",
            "BWN",
            "-bw",
            "1",
            "-o",
            "Adam",
            "-meta",
            "LSTMFC",
            "-hidden",
            "50",
            "-nlstm",
            "2",
            "-nfc",
            "4",
            "-nonlinear",
            "None",
            "-lr",
            "1e-2",
            "-ad",
            "adaptive",
            "-n",
            "7",
            "-bs",
            "64",
            "-e",
            "spec",
            "-decay",
            "1e-4",
        ]
    )
    assert (args.model, args.dataset, args.quantizer, args.bits, args.optimizer) == ("ResNet32", "CIFAR10", "BWN", 1, "Adam")
    assert (args.backward, args.hidden_size, args.num_lstm, args.num_fc, args.meta_nonlinear) == ("LSTMFC", 50, 2, 4, None)
    assert (args.init_lr, args.lr_adjust, args.epochs, args.batch_size) == (0.01, "adaptive", 7, 64)
    assert (args.exp_spec, args.meta_weight_decay) == ("spec", 1e-4)


def test_a_run_is_the_same_run_by_another_spelling_of_its_settings(call_main, tmp_path, tiny_set, base_model):
    """A base model's path with a doubled slash; a record from before a switch was there. A switch that is on is another run."""
    command = ["train", "-m", "ResNet20", "-d", tiny_set, "-n", 1, "--results-root", tmp_path / "R", "--pretrained"]
    assert call_main(*command, base_model).code == 0
    (record,) = (tmp_path / "R").rglob("run.json")
    content = json.loads(record.read_text())
    del content["settings"]["drop_last"]
    record.write_text(json.dumps(content))
    again = call_main(*command, f"{base_model.parent}//{base_model.name}")
    assert again.code == 0
    assert "is done" in again.out
    other = call_main(*command, base_model, "--drop-last", "-bs", 4)
    assert other.code == 2
    assert "drop_last None there and True here" in other.err


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
    for other in ("eager", "cut off"):
        np.testing.assert_allclose(losses["graphs"], losses[other], rtol=0.02)
