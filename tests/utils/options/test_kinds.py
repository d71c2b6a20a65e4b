"""The values that settings take, texts, numbers and paths, and how a wrong one is named."""

import re

import pytest
from parsed import REQUIRED, parsed, train_settings

from utils.errors import BadInput
from utils.options.kinds import INTERVAL, PATH, LearningRateSchedule, Real, Whole
from utils.run.settings import TrainSettings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "ResNet21"}, ["-m/--model", "ResNet20", "'ResNet21'"]),
        ({"dataset": "MNIST"}, ["-d/--dataset", "NPZ:path", "'MNIST'"]),
        ({"epochs": 0}, ["-n/--epochs", "from 1 to 1000000", "not 0"]),
        ({"epochs": 1.5}, ["-n/--epochs", "a whole number", "not 1.5"]),
        ({"epochs": True}, ["-n/--epochs", "not True"]),
        ({"epochs": None}, ["-n/--epochs", "not None"]),
        ({"init_lr": float("nan")}, ["-lr/--init-lr", "above 0", "nan"]),
        ({"init_lr": "fast"}, ["-lr/--init-lr", "above 0", "'fast'"]),
        ({"weight_decay": -1}, ["--weight-decay", "of at least 0", "-1"]),
        ({"drop_last": "yes"}, ["--drop-last", "true or false", "'yes'"]),
        ({"lr_adjust": 0}, ["-ad/--lr-adjust", "'adaptive'", "not 0"]),
        ({"lr_adjust": "60,30"}, ["-ad/--lr-adjust", "ascending order", "'60,30'"]),
        ({"lr_adjust": "30,30"}, ["-ad/--lr-adjust", "ascending order", "'30,30'"]),
        ({"lr_adjust": "30,100"}, ["--lr-adjust 30,100", "no epoch comes after epoch 100", "100"]),
        ({"lr_adjust": "30,200,300"}, ["no epoch comes after epoch 200 in a run of 100"]),
        ({"warmup": 100, "lr_adjust": "cosine"}, ["--warmup 100", "shorter than the run", "100 epochs"]),
        ({"warmup": -1}, ["--warmup", "from 0 to 1000000"]),
        ({"warmup": 5, "lr_adjust": "adaptive"}, ["--warmup 5", "adaptive cannot have a warm-up"]),
        ({"warmup": 31}, ["--warmup 31", "--lr-adjust 30", "after epoch 30 already"]),
        ({"warmup": 10, "lr_adjust": "9,20"}, ["--warmup 10", "--lr-adjust 9,20", "after epoch 9 already"]),
        ({"backward": "RNN"}, ["-meta/--backward", "FC-Grad, MultiFC, LSTMFC, ProxQuant", "'RNN'"]),
        ({"meta_nonlinear": "gelu"}, ["-nonlinear/--meta-nonlinear", "none, relu, tanh", "'gelu'"]),
        ({"bits": 9}, ["-bw/--bits", "from 1 to 8", "not 9"]),
        ({"bits": 2, "quantizer": "BWN"}, ["-bw/--bits 2", "1 bit"]),
        ({"device": "tpu"}, ["--device", "cuda:N", "'tpu'"]),
        ({"exp_spec": "../up"}, ["-e/--exp-spec", "'../up'"]),
        ({"checkpoint_every": "0"}, ["--checkpoint-every", "100it", "'0'"]),
    ],
)
def test_a_wrong_value_is_refused_where_settings_are_made(values, words):
    for make in (lambda: TrainSettings(**REQUIRED | values), lambda: TrainSettings.from_values(REQUIRED | values, "here")):
        with pytest.raises(BadInput) as error:
            make()
        for word in words:
            assert word in str(error.value)
    assert str(error.value).startswith("here: ")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Whole(1, 20), "1\u0663"),
        (Real(above=0), "1e-50"),
        (LearningRateSchedule(), "1\u0663"),
        (INTERVAL, "1\u0663"),
        (PATH, "\udcfc"),
    ],
)
def test_texts_that_only_look_like_values_are_refused(kind, text):
    with pytest.raises(ValueError, match="must be"):
        kind.read(text)


@pytest.mark.parametrize(
    "path", ["a\0b", "a/" + "b" * 256 + "/c", "a/" * 2048, "\ud800"], ids=["NUL", "name", "path", "surrogate"]
)
def test_what_no_file_can_be_called_is_refused(path):
    for changes in ({"results_root": path}, {"data_root": path}, {"pretrained": path}, {"dataset": f"NPZ:{path}"}):
        with pytest.raises(BadInput, match="a path of 1 to 4095 bytes, and each name in it of at most 255"):
            TrainSettings(**REQUIRED | changes)


def test_a_path_may_begin_with_the_home_folder(monkeypatch, tmp_path):
    """Where no shell has expanded it: behind a "=", behind NPZ:, in a manifest, in an environment variable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("METAQUANT_DATA", "~/d")
    flags = ["-m", "ResNet20", "-d", "NPZ:~/a.npz", "--results-root=~/r", "--pretrained=~/x"]
    by_flags = train_settings(flags)
    places = {"dataset": "NPZ:~/a.npz", "results_root": "~/r", "pretrained": "~/x"}
    for made in (by_flags, TrainSettings(**REQUIRED | places), TrainSettings.from_values(REQUIRED | places, "a manifest")):
        assert made.dataset == f"NPZ:{tmp_path}/a.npz"
        assert (made.results_root, made.pretrained) == (f"{tmp_path}/r", f"{tmp_path}/x")
        assert made.data_root == f"{tmp_path}/d"
    assert train_settings([*flags, "--data-root=~/e"]).data_root == f"{tmp_path}/e"
    assert TrainSettings(**REQUIRED, results_root="~nobody-of-this-name/~").results_root == "~nobody-of-this-name/~"
    assert TrainSettings(**REQUIRED, pretrained="none").pretrained == "none"
    for args in (parsed(["evaluate", "~/run", "--data-root=~/d"]), parsed(["evaluate", "~/run"])):
        assert (args.path, args.data_root) == (f"{tmp_path}/run", f"{tmp_path}/d")


def test_the_help_states_the_limits(capsys):
    with pytest.raises(SystemExit):
        parsed(["train", "-h"])
    text = " ".join(capsys.readouterr().out.split())
    for limit in ("1 to 1000000", "1 to 100 ", "1 to 10000", "1 to 8", "at most 1 ", "0 to 256"):
        assert f"; {limit.strip()}" in text
    assert "1e38" not in text


def test_a_message_says_that_0_is_taken_only_where_it_is():
    for kind, range_ in (
        (Real(above=0), "above 0 and at most 1e38 (at least 1e-38, which"),
        (Real(), "of at least 0 and at most 1e38 (0 or at least 1e-38, which"),
        (Real(most=1), "of at least 0 and at most 1 (0 or at least 1e-38, which"),
    ):
        with pytest.raises(ValueError, match=re.escape(f"must be a number {range_} float32 can hold), not '-1'")):
            kind.read("-1")
