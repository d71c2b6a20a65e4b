"""What is wrong is one clear line: flags, files, base models, a loss that is not finite."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, Malicious

from utils.choices import MODELS
from utils.dataset import load_images
from utils.errors import BadInput
from utils.run.evaluation import find_trained

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
    ([*TRAIN, "-bw", "1", "-q", "TTQ"], ["-bw/--bits 1: TTQ takes 2 bits, for its three values, not 1"]),
    ([*TRAIN, "-bw", "3", "-q", "ternary"], ["-bw/--bits 3: ternary takes 2 bits"]),
    ([*TRAIN, "-bw", "9", "-q", "LSQ"], ["-bw/--bits", "from 1 to 8", "'9'"]),
    ([*TRAIN, "-q", "LSQ", "--quantizer-lr", "-1"], ["--quantizer-lr", "at least 0", "'-1'"]),
    ([*TRAIN, "-q", "LSQ", "-meta", "ProxQuant"], ["--backward ProxQuant", "would not train the parameters of LSQ"]),
    ([*TRAIN, "-lr", "-1"], ["-lr/--init-lr", "above 0", "'-1'"]),
    ([*TRAIN, "-lr", "nan"], ["-lr/--init-lr", "above 0", "'nan'"]),
    ([*TRAIN, "-lr", "fast"], ["-lr/--init-lr", "above 0", "'fast'"]),
    ([*TRAIN, "-lr", "1_0"], ["-lr/--init-lr", "above 0", "'1_0'"]),
    ([*TRAIN, "-lr", "\u0663"], ["-lr/--init-lr", "above 0", "\u0663"]),
    ([*TRAIN, "--device", "cuda:999"], ["--device", "cuda:N with N from 0 to 99", "cuda:999"]),
    ([*TRAIN, "--results-root", ""], ["--results-root", "a path of 1 to"]),
    ([*TRAIN, "--phi", ""], ["--phi", "a path of 1 to"]),
    ([*TRAIN, "--data-root", ""], ["--data-root", "a path of 1 to"]),
    (["report", "{root}", "--out", ""], ["--out", "a path of 1 to"]),
    (["tables", "run", "table1", "--jobs", "100000000000"], ["--jobs", "from 1 to 10000"]),
    (["tables", "run", "table1", "--slice", "\u0663/\u0664"], ["--slice", "I/N"]),
    (["tables", "run", "table1", "--set", "init-lr=1", "init_lr=2"], ["--set init-lr", "more than once"]),
    (["tables", "run", "table1", "--set", "overwrite=true"], ["--set overwrite", "exp-spec=NAME"]),
    ([*TRAIN, "-n", "0"], ["-n/--epochs", "from 1 to 1000000", "'0'"]),
    ([*TRAIN, "-n", "1.5"], ["-n/--epochs", "from 1 to 1000000", "'1.5'"]),
    ([*TRAIN, "-bs", "0"], ["-bs/--batch-size", "from 1 to 1000000"]),
    ([*TRAIN, "-ad", "0"], ["-ad/--lr-adjust", "adaptive", "'0'"]),
    ([*TRAIN, "-n", "9", "-ad", "6,3"], ["-ad/--lr-adjust", "ascending order", "'6,3'"]),
    ([*TRAIN, "-n", "9", "-ad", "3,3"], ["-ad/--lr-adjust", "ascending order", "'3,3'"]),
    ([*TRAIN, "-n", "9", "-ad", "3,9"], ["--lr-adjust 3,9", "epoch 9 in a run of 9"]),
    ([*TRAIN, "-n", "9", "-ad", "cosine", "--warmup", "9"], ["--warmup 9", "shorter than the run", "9 epochs"]),
    ([*TRAIN, "-n", "9", "-ad", "adaptive", "--warmup", "1"], ["--warmup 1", "adaptive cannot have a warm-up"]),
    ([*TRAIN, "-n", "9", "-ad", "2", "--warmup", "3"], ["--warmup 3", "--lr-adjust 2", "after epoch 2 already"]),
    ([*TRAIN, "--validation", "8"], ["--validation 8", "from 2 to 6 of the 8 training images"]),
    ([*TRAIN, "--validation", "1"], ["--validation 1", "from 2 to 6", "2 classes"]),
    ([*TRAIN, "--validation", "-1"], ["--validation", "from 0 to 1000000000"]),
    (["pretrain", "-m", "ResNet20", "-d", "{set}", "--validation", "7"], ["--validation 7", "from 2 to 6"]),
    ([*TRAIN, "--validation", "2", "-bs", "7", "--drop-last"], ["--drop-last: 6 training images are fewer than one batch of 7"]),
    ([*TRAIN, "--warmup", "1.5"], ["--warmup", "from 0 to 1000000", "'1.5'"]),
    ([*TRAIN, "-hidden", "0"], ["-hidden/--hidden-size", "from 1 to 10000"]),
    ([*TRAIN, "-nfc", "-3"], ["-nfc/--num-fc", "from 1 to 100"]),
    ([*TRAIN, "-nlstm", "x"], ["-nlstm/--num-lstm", "from 1 to 100", "'x'"]),
    ([*TRAIN, "-decay", "-1"], ["-decay/--meta-weight-decay", "at least 0"]),
    ([*TRAIN, "--meta-lr", "0"], ["--meta-lr", "above 0"]),
    ([*TRAIN, "--freeze-phi-after", "1"], ["--freeze-phi-after 1", "must be less than the run's 1 epoch"]),
    ([*TRAIN, "--freeze-phi-after", "-1"], ["--freeze-phi-after", "from 0 to 1000000", "'-1'"]),
    ([*TRAIN, "-meta", "EDE", "--freeze-phi-after", "0"], ["--freeze-phi-after: --backward EDE has no M"]),
    ([*TRAIN, "-meta", "ProxQuant", "--phi", "{root}/run"], ["--phi: --backward ProxQuant has no M"]),
    ([*TRAIN, "--phi", "{root}/run", "--meta-init", "random"], ["--phi and --meta-init random exclude each other"]),
    ([*TRAIN, "--phi", "{root}/run"], ["--phi: there is no folder", "/run"]),
    ([*TRAIN, "--phi", "{root}"], ["--phi: the run", "has no run.json"]),
    ([*TRAIN, "--weight-decay", "inf"], ["--weight-decay", "at least 0"]),
    ([*TRAIN, "--trial", "0"], ["--trial", "from 1 to 1000000"]),
    ([*TRAIN, "--seed", "-1"], ["--seed", "from 0 to"]),
    ([*TRAIN, "--workers", "-1"], ["--workers", "from 0 to 256"]),
    ([*TRAIN, "--checkpoint-every", "0"], ["--checkpoint-every", "100it", "'0'"]),
    ([*TRAIN, "--device", "tpu"], ["--device", "cuda:N", "'tpu'"]),
    ([*TRAIN, "--device", "cuda:99"], ["--device cuda:99", "CUDA devices"]),
    ([*TRAIN, "-e", "../up"], ["-e/--exp-spec", "'../up'"]),
    ([*TRAIN, "-e", "a/b"], ["-e/--exp-spec", "'a/b'"]),
    ([*TRAIN, "--unheard-of"], ["--unheard-of"]),
    ([*TRAIN, "--pretrained", "{root}/absent.pth"], ["--pretrained", "absent.pth", "'pretrain -m ResNet20 -d"]),
    (
        [*TRAIN, "-meta", "FC-Grad", "-hidden", "1", "-nonlinear", "relu", "--meta-init", "identity"],
        ["--backward FC-Grad", "hidden_size"],
    ),
    ([*TRAIN, "-d", "NPZ:{root}/absent.npz"], ["--dataset NPZ:", "absent.npz", "no such file"]),
    ([*TRAIN, "-d", "CIFAR10", "--data-root", "{root}/nothing"], ["--data-root", "CIFAR10", "cifar-10-python.tar.gz"]),
    ([*TRAIN, "--results-root", "{file}"], ["--results-root", "cannot make"]),
    (["benchmark", "--out", "{root}/nowhere/found.json"], ["--out", "nowhere"]),
    (["benchmark", "--out", "{root}"], ["--out", "a folder"]),
    ([*TRAIN, "--pretrained", ""], ["--pretrained", "a path of 1 to"]),
    (["tables", "run", "all", "--pretrained-root", "{root}/nowhere"], ["--pretrained-root", "nowhere", "no such folder"]),
    (["tables", "run", "all", "--engine", "slurm", "--dry-run", "--jobs", "2"], ["--jobs 2", "at most 1, the runs of a task"]),
    (["tables", "run", "all", "--set", "foo=1"], ["--set foo=1", "--foo"]),
    (["tables", "run", "all", "--set", "epochs=3"], ["--set epochs", "flag of its own"]),
    (["tables", "run", "all", "--set", "init_lr=none"], ["--set init-lr=none", "-lr/--init-lr"]),
    (["report", ""], ["argument ROOT: must be a path of 1 to", "''"]),
    (["report", "{root}/" + "x" * 256], ["argument ROOT: must be a path", "each name in it of at most 255"]),
    (["report", "{root}/a\0b"], ["argument ROOT: must be a path"]),
    (["tables", "status", "all", "--manifest", ""], ["--manifest", "a path of 1 to"]),
    (["tables", "status", "all", "--pretrained-root", ""], ["--pretrained-root", "a path of 1 to"]),
    (["evaluate", "{root}/nowhere"], ["nowhere", "no such folder or file"]),
    (["evaluate", "{file}"], ["test_bad_input.py", "-m/--model"]),
    (["evaluate", "{file}", "-m", "ResNet20", "-d", "{set}"], ["-m ResNet20", "test_bad_input.py"]),
    (["evaluate", "{root}"], ["run.json"]),
    (["report", "{root}"], ["no runs"]),
    (["pretrain", "-m", "ResNet20", "-d", "{set}", "-n", "0"], ["-n/--epochs"]),
    ([*TRAIN, "-nlstm", "100000"], ["-nlstm/--num-lstm", "from 1 to 100", "'100000'"]),
    ([*TRAIN, "-nfc", "101"], ["-nfc/--num-fc", "from 1 to 100"]),
    ([*TRAIN, "-hidden", "1000000000"], ["-hidden/--hidden-size", "from 1 to 10000"]),
    ([*TRAIN, "-bs", f"{10**30}"], ["-bs/--batch-size", "from 1 to 1000000", f"'{10**30}'"]),
    ([*TRAIN, "-bs", "9" * 100_000], ["-bs/--batch-size", "from 1 to 1000000", "999 ... 999"]),
    ([*TRAIN, "--trial", f"{10**30}"], ["--trial", "from 1 to 1000000"]),
    ([*TRAIN, "-n", f"{10**30}"], ["-n/--epochs", "from 1 to 1000000"]),
    ([*TRAIN, "-ad", f"{10**30}"], ["-ad/--lr-adjust", "from 1 to 1000000"]),
    ([*TRAIN, "--seed", f"{10**30}"], ["--seed", "from 0 to 9223372036854775807"]),
    ([*TRAIN, "--workers", "257"], ["--workers", "from 0 to 256"]),
    ([*TRAIN, "--stop-after", f"{10**30}"], ["--stop-after", "from 1 to 1000000000000"]),
    ([*TRAIN, "--checkpoint-every", "9" * 5000], ["--checkpoint-every", "9 digits"]),
    ([*TRAIN, "-lr", "1e308"], ["-lr/--init-lr", "above 0 and at most 1e38", "'1e308'"]),
    ([*TRAIN, "--meta-lr", "1e39"], ["--meta-lr", "at most 1e38"]),
    ([*TRAIN, "--weight-decay", "1e39"], ["--weight-decay", "at most 1e38"]),
    ([*TRAIN, "-decay", "1e39"], ["-decay/--meta-weight-decay", "at most 1e38"]),
    ([*TRAIN, "-e", "e" * 220], ["-e/--exp-spec", "would have 301 bytes", "takes 255", "shorter"]),
    ([*TRAIN, "-e", "e" * 100_000], ["-e/--exp-spec", "eee ... ", "takes 255"]),
    ([*TRAIN, "-q", "q" * 100_000], ["-q/--quantizer", "qqq ... ", "dorefa"]),
    ([*TRAIN, "-d", "d" * 100_000], ["-d/--dataset", "ddd ... ddd"]),
    ([*TRAIN, "-d", "NPZ:" + "d" * 100_000], ["-d/--dataset", "each name in it of at most 255"]),
    ([*TRAIN, "-d", "NPZ:{root}/" + "d" * 246 + ".npz"], ["259 bytes", "a shorter name"]),
    (["pretrain", "-m", "ResNet20", "-d", "NPZ:{root}/" + "d" * 225 + ".npz"], ["264 bytes", "a shorter name"]),
    ([*TRAIN, "--pretrained", "p" * 256], ["--pretrained", "each name in it of at most 255"]),
    ([*TRAIN, "--pretrained", "p/" * 2100], ["--pretrained", "of 1 to 4095 bytes"]),
    ([*TRAIN, "--results-root", "r" * 256], ["--results-root", "of at most 255"]),
    ([*TRAIN, "--data-root", "{root}/" + "d" * 256], ["--data-root", "of at most 255"]),
    (["evaluate", "e" * 256], ["path", "of at most 255"]),
    (["evaluate", "{file}/run"], ["test_bad_input.py/run", "no such folder or file"]),
    ([*TRAIN, "--pretrained", "{file}/base.pth"], ["--pretrained", "no base model"]),
    ([*TRAIN, "-d", "NPZ:{file}/set.npz"], ["NPZ:", "no such file"]),
    ([*TRAIN, "--results-root", "{file}/results"], ["--results-root", "cannot make"]),
    ([*TRAIN, "-d", "CIFAR10", "--data-root", "{file}/data"], ["--data-root", "CIFAR10"]),
    (["benchmark", "--at-once", f"{10**9}"], ["--at-once", "from 1 to 1000"]),
    (["benchmark", "--iterations", f"{10**9}"], ["--iterations", "from 1 to 1000000"]),
]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT, ids=lambda x: " ".join(x)[-60:])
def test_bad_input_is_one_clear_line(arguments, words, refuses, tmp_path, tiny_set, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses([argument.format(set=tiny_set, root=tmp_path, file=__file__) for argument in arguments], words)


def forbid(monkeypatch, folder, number=errno.EACCES):
    """As if this process had no permission to look into a folder (root has every one), or another error came of it."""
    plain = os.stat

    def look(path, *arguments, **options):
        if not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(folder):
            raise OSError(number, os.strerror(number), os.fsdecode(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", look)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*TRAIN, "--results-root", "{root}"], ["--results-root: ", "cannot be accessed: Permission denied"]),
        (["pretrain", "-m", "ResNet20", "-d", "{set}", "--results-root", "{root}"], ["--results-root: ", "Permission denied"]),
        ([*TRAIN, "--pretrained", "{root}/base.pth"], ["--pretrained: ", "base.pth cannot be accessed: Permission denied"]),
        ([*TRAIN, "--phi", "{root}/run"], ["--phi: ", "run cannot be accessed: Permission denied"]),
        ([*TRAIN, "-d", "NPZ:{root}/set.npz"], ["--dataset NPZ:", "set.npz cannot be accessed: Permission denied"]),
        ([*TRAIN, "-d", "CIFAR10", "--data-root", "{root}"], ["--data-root", "cannot be accessed: Permission denied"]),
        (["evaluate", "{root}/run"], ["run cannot be accessed: Permission denied"]),
        (["evaluate", "{root}/base.pth", "-m", "ResNet20", "-d", "{set}"], ["base.pth cannot be accessed: Permission denied"]),
    ],
    ids=lambda x: " ".join(x)[-40:],
)
@pytest.mark.usefixtures("no_network")
def test_a_path_that_may_not_be_looked_at_is_one_line(arguments, words, refuses, tmp_path, tiny_set, monkeypatch):
    monkeypatch.chdir(tmp_path)
    forbid(monkeypatch, tmp_path / "locked" / "room")
    refuses([argument.format(set=tiny_set, root=tmp_path / "locked" / "room") for argument in arguments], words)


def test_a_name_that_the_system_refuses_is_one_line(tmp_path, monkeypatch):
    """Where a file system takes less than others."""
    path = tmp_path / "name"
    forbid(monkeypatch, path, errno.ENAMETOOLONG)
    with pytest.raises(BadInput, match="name cannot be accessed: File name too long"):
        find_trained(path, None, None)
    with pytest.raises(BadInput, match=r"--dataset NPZ:.*name cannot be accessed: File name too long"):
        load_images(f"NPZ:{path}", "train")


def test_a_folder_of_cifar_itself_is_not_its_data_root(call_main, tmp_path, no_network):
    for name, files in (("10", [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]), ("100", ["train", "test"])):
        folder = tmp_path / {"10": "cifar-10-batches-py", "100": "cifar-100-python"}[name]
        folder.mkdir()
        for file in files:
            (folder / file).write_bytes(b"")
        outcome = call_main(
            *["train", "-m", "ResNet8", "-d", f"CIFAR{name}", "--pretrained", "none", "--data-root", folder],
            *["--results-root", tmp_path / "R"],
        )
        (line,) = outcome.err.splitlines()
        assert f"--data-root {folder}: this is {folder.name} itself; name the folder that it is in, {tmp_path}" in line
        assert outcome.code == 2
        assert not (tmp_path / "R").exists()


def weights_of(model, classes, **changes):
    state = MODELS.load(model)(num_classes=classes).state_dict() | changes
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: weights_of("ResNet32", 2), ["layer1.3.conv1.weight is unexpected", "and"]),
        (lambda: weights_of("ResNet20", 10), ["fc.weight has shape (10, 64), not (2, 64)"]),
        (lambda: weights_of("ResNet20", 2, **{"bn1.weight": None}), ["bn1.weight is missing"]),
        (lambda: {"net": weights_of("ResNet32", 2)}, ["layer1.3.conv1.weight is unexpected"]),
        (lambda: {"weights": weights_of("ResNet20", 2)}, ["not a plain state dict", "'weights'"]),
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
    arguments = ["-m", "ResNet20", "-d", tiny_set, "-n", "3", "-lr", "1e37", "-bs", "2", "--pretrained", "none"]
    arguments += ["--checkpoint-every", "1it"]
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
