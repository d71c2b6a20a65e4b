"""Every flag does what it says, or says that it does nothing."""

import json

import pytest
from parsed import parsed

from utils.choices import ESTIMATORS, PROXIMAL
from utils.cli.parser import flags_without_effect

FIXED = [name for name in (*ESTIMATORS, *PROXIMAL) if not name.startswith("STE")]

FLAG_CASES = [  # flags, what both runs share, setting in run.json, its value, where the behaviour differs
    (["-q", "BWN"], [], "quantizer", "BWN", "loss"),
    (["-q", "BWN-F"], ["-q", "BWN"], "quantizer", "BWN-F", "loss"),
    (["-q", "ternary"], [], "quantizer", "ternary", "loss"),
    (["-q", "LSQ"], ["-q", "BWN"], "quantizer", "LSQ", "net"),
    (["-q", "TTQ"], ["-q", "LSQ"], "quantizer", "TTQ", "loss"),
    (["-bw", "2"], [], "bits", 2, "loss"),
    (["--quantizer-lr", "0"], ["-q", "LSQ"], "quantizer_lr", 0.0, "net"),
    (["-o", "SGD-M"], [], "optimizer", "SGD-M", "loss"),
    (["-o", "Nesterov"], ["-o", "SGD-M"], "optimizer", "Nesterov", "loss"),
    (["-o", "Adam"], [], "optimizer", "Adam", "loss"),
    (["-o", "AMSGrad"], ["-o", "Adam"], "optimizer", "AMSGrad", "net"),
    (["-meta", "STE"], ["-meta", "FC-Grad"], "backward", "STE", "loss"),
    (["-meta", "FC-Grad"], [], "backward", "FC-Grad", "net"),
    (["-meta", "LSTMFC", "-hidden", "4"], ["-hidden", "4"], "backward", "LSTMFC", "net"),
    (["-meta", "STE-identity"], ["-meta", "STE"], "backward", "STE-identity", None),  # no weight is beyond 1
    *([["-meta", name], ["-meta", "STE", "-q", "BWN"], "backward", name, "net"] for name in FIXED),
    (["--label-smoothing", "0.1"], [], "label_smoothing", 0.1, "loss"),
    (["--clip", "0.01"], [], "clip", 0.01, "net"),
    (["-hidden", "7"], [], "hidden_size", 7, "meta_net"),
    (["-nfc", "2"], [], "num_fc", 2, "meta_net"),
    (["-nlstm", "2"], ["-meta", "LSTMFC", "-hidden", "4"], "num_lstm", 2, "meta_net"),
    (["-nonlinear", "relu"], [], "meta_nonlinear", "relu", "net"),
    (["-nonlinear", "tanh"], ["-hidden", "4"], "meta_nonlinear", "tanh", "net"),
    (["-lr", "0.2"], [], "init_lr", 0.2, "lr"),
    (["-ad", "1"], [], "lr_adjust", 1, "lr"),
    (["-ad", "adaptive"], [], "lr_adjust", "adaptive", None),
    (["-ad", "cosine"], [], "lr_adjust", "cosine", "lr"),
    (["--warmup", "1"], [], "warmup", 1, "lr"),
    (["-n", "1"], [], "epochs", 1, "test-acc"),
    (["-bs", "8"], [], "batch_size", 8, "loss"),
    (["--drop-last"], ["-bs", "3"], "drop_last", True, "loss"),
    (["-e", "mine"], [], "exp_spec", "mine", None),
    (["-decay", "0.5"], [], "meta_weight_decay", 0.5, "meta_net"),
    (["--meta-lr", "0.01"], [], "meta_lr", 0.01, "net"),
    (["--freeze-phi-after", "0"], [], "freeze_phi_after", 0, "meta_net"),
    (["--freeze-phi-after", "1"], [], "freeze_phi_after", 1, "meta_net"),
    (["--meta-lr-adjust"], ["-ad", "1"], "meta_lr_adjust", True, "meta_net"),
    (["--weight-decay", "0.5"], [], "weight_decay", 0.5, "net"),
    (["--meta-init", "identity"], [], "meta_init", "identity", "net"),
    (["--lstm-state", "reset"], ["-meta", "LSTMFC", "-hidden", "4"], "lstm_state", "reset", "net"),
    (["--update-order", "paper"], [], "update_order", "paper", "loss"),
    (["--trial", "2"], [], "trial", 2, "loss"),
    (["--seed", "1"], [], "seed", 1, "loss"),
    (["--validation", "2"], [], "validation", 2, "loss"),
    (["--pretrained", "none"], [], "pretrained", "none", "loss"),
    (["--precision", "bf16"], [], "precision", "bf16", "loss"),
    (["--loader", "torchvision"], [], "loader", "torchvision", "loss"),
]


@pytest.mark.parametrize(
    ("flags", "shared", "key", "value", "differs"), FLAG_CASES, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_every_training_flag_changes_what_it_says(flags, shared, key, value, differs, train, train_once):
    plain, changed = train_once(*shared), train(*shared, *flags)
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
    for flag, value in (("deterministic", True), ("eager", True), ("precision", "tf32")):  # on CUDA they change something
        other = train(f"--{flag}", *([value] if value is not True else []))
        assert other.record["settings"][flag] == value
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


def test_only_stes_adam_is_torchs(train):
    """A setting of its own, so that the report names the difference, and only STE's record has it."""
    records = [train("-o", "Adam", "-meta", method).record for method in ("STE", "FC-Grad")]
    assert [record["settings"].get("bias_corrected_eps") for record in records] == [True, None]
    assert [record["optimizers"]["net"]["bias_corrected_eps"] for record in records] == [True, False]


def test_short_flags_of_the_released_scripts_parse():
    flags = "-m ResNet32 -d CIFAR10 -q BWN -bw 1 -o Adam -meta LSTMFC -hidden 50 "
    flags += "-nlstm 2 -nfc 4 -nonlinear None -lr 1e-2 -ad adaptive -n 7 -bs 64 -e spec -decay 1e-4"
    args = parsed(["train", *flags.split()])
    assert (args.model, args.dataset, args.quantizer, args.bits, args.optimizer) == ("ResNet32", "CIFAR10", "BWN", 1, "Adam")
    assert (args.backward, args.hidden_size, args.num_lstm, args.num_fc, args.meta_nonlinear) == ("LSTMFC", 50, 2, 4, None)
    assert (args.init_lr, args.lr_adjust, args.epochs, args.batch_size) == (0.01, "adaptive", 7, 64)
    assert (args.exp_spec, args.meta_weight_decay) == ("spec", 1e-4)


def test_settings_that_do_not_apply_are_null_and_named(call_main, tmp_path, tiny_set):
    where = ["-d", tiny_set, "--pretrained", "none", "--results-root", tmp_path]
    outcome = call_main("train", "-m", "ResNet8", "-meta", "STE", "-hidden", "5", "-n", "1", *where)
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
        ("train -m ResNet20 -d Digits -q BWN --quantizer-lr 1", ["--quantizer-lr"]),
        ("train -m ResNet20 -d Digits -q TTQ --quantizer-lr 1", []),
        ("train -m ResNet20 -d Digits --workers 2 --device cpu --eager", ["--workers", "--eager"]),
        ("train -m ResNet20 -d Digits --device cpu --precision tf32", ["--precision"]),
        ("train -m ResNet20 -d Digits --device cpu --precision bf16", []),
        ("train -m ResNet20 -d Digits --workers 2 --loader torchvision --device cuda --precision tf32", []),
        ("train -m ResNet20 -d Digits --loader torchvision --device cuda --eager", ["--eager"]),
        ("pretrain -m ResNet20 -d Digits --device cpu --deterministic", ["--deterministic"]),
        ("benchmark --scale --repeats 3 --device cpu", ["--repeats", "--device"]),
        ("benchmark --repeats 3 --device cpu", []),
        ("benchmark --repeats 3 --device cpu --precision float32 tf32", ["--precision"]),
        ("benchmark --scale --precision bf16", ["--precision"]),
        ("tables status all --jobs 2 --address auto --dry-run", ["--jobs", "--address", "--dry-run"]),
        ("tables run all --jobs 2 --address auto", ["--address"]),
        ("tables run all --engine ray --address auto", []),
        ("evaluate . -m ResNet20", ["--model"]),
        ("evaluate net.safetensors -m ResNet20", ["--model"]),
        ("evaluate base.pth -m ResNet20", []),
        ("evaluate base.pth -m ResNet20 --device cpu --precision tf32", ["--precision"]),
        ("evaluate net.onnx --precision bf16", ["--precision"]),
        ("evaluate net.safetensors --precision bf16", []),
    ],
)
def test_flags_that_do_nothing_are_named(command, named):
    notes = flags_without_effect(parsed(command.split()))
    assert [note.split()[0] for note in notes] == named
    assert all(" has no effect " in note for note in notes)


def test_an_unknown_flag_is_answered_with_the_closest_one(refuses, tiny_set):
    refuses(
        ["train", "-m", "ResNet20", "-d", tiny_set, "--lr", "0.1"],
        ["main.py train: error", "unrecognized arguments: --lr 0.1; did you mean -lr?"],
    )
    refuses(["train", "-m", "ResNet20", "-d", tiny_set, "--zzz"], ["unrecognized arguments: --zzz"])
