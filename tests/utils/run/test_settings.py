"""Settings: validated and resolved where they are made, the same from every source; records of earlier commits."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest
from parsed import parsed, train_settings

from utils.choices import META_NETWORKS, QUANTIZERS
from utils.errors import BadInput, Finished
from utils.options.kinds import INTERVAL, PATH, LearningRateSchedule, Real, Whole
from utils.options.options import settings_of
from utils.run.folder.fields import check_record_fields
from utils.run.folder.record import check_record, run_name, run_path
from utils.run.identity import Identity, check_checkpoint, switched_on
from utils.run.settings import (
    CUDA_ONLY,
    LEARNED_DEFAULTS,
    MAY_DIFFER,
    META_OPTIONS,
    PretrainSettings,
    TrainSettings,
    with_precision,
)
from utils.tables.manifest import MANIFEST, PROTOCOLS, read_manifest

CELL = {"model": "ResNet20", "dataset": "CIFAR10"}

# of a run of commit 117f2a1, as its run.json has them
RECORDED = {
    "model": "ResNet20",
    "dataset": "CIFAR10",
    "init_lr": 0.001,
    "epochs": 100,
    "lr_adjust": 30,
    "batch_size": 128,
    "drop_last": True,
    "seed": 0,
    "data_root": "elsewhere/data",
    "results_root": "elsewhere/Results",
    "device": "auto",
    "deterministic": False,
    "checkpoint_every": "1",
    "tf32": False,
    "eager": False,
    "loader": "resident",
    "workers": 0,
    "stop_after": None,
    "quantizer": "BWN",
    "bits": 1,
    "optimizer": "SGD",
    "weight_decay": 0.0,
    "backward": "FC-Grad",
    "hidden_size": 100,
    "num_fc": None,
    "num_lstm": None,
    "meta_nonlinear": None,
    "meta_init": "identity",
    "lstm_state": None,
    "meta_lr": 0.001,
    "meta_lr_adjust": False,
    "meta_weight_decay": 0.0,
    "update_order": "notebook",
    "exp_spec": None,
    "trial": 1,
    "pretrained": "elsewhere/ResNet20-CIFAR10-pretrain.pth",
}
RENAMED = {("precision" if name == "tf32" else name): ("float32" if name == "tf32" else v) for name, v in RECORDED.items()}
NEWER = {"label_smoothing", "clip", "keep", "warmup", "validation", "quantizer_lr", "phi", "freeze_phi_after"}  # usually off
OWN = {"quantizer": "BWN", "backward": "FC-Grad", "meta_init": "identity", "drop_last": True}
OF_STE = {**RECORDED, **dict.fromkeys((*META_OPTIONS, *LEARNED_DEFAULTS)), "quantizer": "dorefa", "backward": "STE"}


def settings_now(**changes):
    """The settings of the same command as RECORDED's."""
    return TrainSettings(**CELL, **OWN | changes, pretrained="here/ResNet20-CIFAR10-pretrain.pth")


def test_settings_are_those_of_earlier_records_by_name_and_order():
    found = TrainSettings(**CELL, **OWN).as_dict()
    places = {"data_root", "results_root", "pretrained"}
    assert [name for name in found if name not in NEWER] == list(RENAMED)
    assert {*found} == {*RENAMED, *NEWER}
    assert {name: value for name, value in found.items() if name not in places | NEWER} == {
        name: value for name, value in RENAMED.items() if name not in places
    }
    pretraining = [*[*RENAMED][:18], "weight_decay", "trial", "optimizer", "momentum"]
    assert [name for name in PretrainSettings(**CELL).as_dict() if name not in NEWER] == pretraining
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("recorded", [RECORDED, OF_STE], ids=["FC-Grad", "STE"])
def test_a_record_of_an_earlier_commit_is_the_same_run(recorded, tmp_path):
    run = {"backward": recorded["backward"], "quantizer": recorded["quantizer"]}
    (tmp_path / "run.json").write_text(json.dumps({"settings": recorded, "state": "running", "epochs_done": 40}))
    assert check_record(tmp_path, settings_now(**run))["epochs_done"] == 40
    assert switched_on(TrainSettings.from_record(recorded).as_dict()) == switched_on(with_precision(recorded))
    (tmp_path / "run.json").write_text(json.dumps({"settings": recorded, "state": "done"}))
    with pytest.raises(Finished, match="is done"):
        check_record(tmp_path, settings_now(**run))
    with pytest.raises(BadInput, match="epochs 100 there and 7 here"):
        check_record(tmp_path, settings_now(**run, epochs=7))


def test_what_was_recorded_as_tf32_is_a_precision(tmp_path):
    """In records and checkpoints of earlier commits, on or off, or not there; a command of another precision is another run."""
    for there, precision in (({"tf32": True}, "tf32"), ({"tf32": False}, "float32"), ({}, "float32")):
        recorded = {name: value for name, value in RECORDED.items() if name != "tf32"} | there
        (tmp_path / "run.json").write_text(json.dumps({"settings": recorded, "state": "running"}))
        same, other = settings_now(precision=precision), settings_now(precision="bf16")
        assert check_record(tmp_path, same)["settings"]["precision"] == precision
        assert TrainSettings.from_record(recorded).precision == precision
        check_checkpoint(tmp_path, {"settings": recorded}, Identity.of_command(same, {}), "")
        with pytest.raises(
            BadInput, match=f"other settings: precision {precision} there and bf16 here; choose another --exp-spec"
        ):
            check_record(tmp_path, other)
        with pytest.raises(BadInput, match=f"other settings: precision {precision} there and bf16 here"):
            check_checkpoint(tmp_path, {"settings": recorded}, Identity.of_command(other, {}), "")


def test_a_record_may_lack_a_setting_or_have_one_that_is_gone(tmp_path):
    recorded = {name: value for name, value in RECORDED.items() if name not in ("drop_last", "eager", "loader")}
    found = TrainSettings.from_record(recorded | {"speed": 9})
    assert (found.drop_last, found.eager, found.loader) == (False, False, "resident")
    assert "speed" not in found.as_dict()
    (tmp_path / "run.json").write_text(json.dumps({"settings": recorded | {"loader": "resident"}, "state": "running"}))
    assert check_record(tmp_path, settings_now(drop_last=False))["state"] == "running"
    with pytest.raises(BadInput, match="drop_last off there and True here"):
        check_record(tmp_path, settings_now())


def test_an_optimizees_options_are_the_records():
    """STE's Adam was the published one before it became torch's."""
    now = TrainSettings(**CELL, backward="STE", optimizer="Adam")
    assert now.as_dict()["bias_corrected_eps"] is True
    assert "bias_corrected_eps" not in TrainSettings(**CELL, optimizer="Adam").as_dict()
    assert TrainSettings.from_record(now.as_dict()) == now
    earlier = {name: value for name, value in now.as_dict().items() if name != "bias_corrected_eps"}
    assert TrainSettings.from_record(earlier).as_dict() == earlier


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_childs_command_line_gives_the_same_settings_for_every_cell(protocol):
    for table in read_manifest(MANIFEST, protocol).values():
        for row in table.rows:
            settings = TrainSettings.from_values(row.cell._asdict() | row.settings, "test")
            assert train_settings(settings.arguments()) == settings
            assert TrainSettings.from_record(settings.as_dict()) == settings


def test_a_childs_command_line_names_what_is_not_the_default():
    own = {"meta_nonlinear": "tanh", "weight_decay": 0.1, "stop_after": 7, "precision": "bf16", "bits": 2, "pretrained": "none"}
    settings = TrainSettings(**CELL, **own, data_root="D", exp_spec="mine", checkpoint_every="100it", lr_adjust="adaptive")
    words = settings.arguments()
    assert train_settings(words) == settings
    given = {word for word in words if word.startswith("--")}
    always = {"model", "dataset", "quantizer", "bits", "optimizer", "backward", "trial", "data-root", "results-root"}
    named = {name.replace("_", "-") for name in (*own, "exp_spec", "checkpoint_every", "lr_adjust")}
    assert given == {f"--{name}" for name in always | named}


def test_every_source_gives_the_same_settings():
    values = {"init_lr": 0.01, "epochs": 7, "drop_last": True, "lr_adjust": "adaptive", "meta_nonlinear": "relu"}
    made = TrainSettings(**CELL, **values)
    texts = {name.replace("_", "-"): str(value).lower() for name, value in values.items()}
    assert TrainSettings.from_values(CELL | values, "a manifest") == made  # TOML's values
    assert TrainSettings.from_values(CELL | texts, "--set") == made
    flags = ["-m", "ResNet20", "-d", "CIFAR10", "-lr", "0.01", "-n", "7", "--drop-last", "-ad", "adaptive", "-nonlinear", "relu"]
    assert train_settings(flags) == made
    assert TrainSettings(**CELL, init_lr=1).init_lr == 1.0
    assert TrainSettings.from_values(CELL | {"exp-spec": 3, "checkpoint-every": 5}, "a manifest").checkpoint_every == "5"


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
    for make in (lambda: TrainSettings(**CELL | values), lambda: TrainSettings.from_values(CELL | values, "here")):
        with pytest.raises(BadInput) as error:
            make()
        for word in words:
            assert word in str(error.value)
    assert str(error.value).startswith("here: ")


def test_a_path_may_begin_with_the_home_folder(monkeypatch, tmp_path):
    """Where no shell has expanded it: behind a "=", behind NPZ:, in a manifest, in an environment variable."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("METAQUANT_DATA", "~/d")
    flags = ["-m", "ResNet20", "-d", "NPZ:~/a.npz", "--results-root=~/r", "--pretrained=~/x"]
    by_flags = train_settings(flags)
    places = {"dataset": "NPZ:~/a.npz", "results_root": "~/r", "pretrained": "~/x"}
    for made in (by_flags, TrainSettings(**CELL | places), TrainSettings.from_values(CELL | places, "a manifest")):
        assert made.dataset == f"NPZ:{tmp_path}/a.npz"
        assert (made.results_root, made.pretrained) == (f"{tmp_path}/r", f"{tmp_path}/x")
        assert made.data_root == f"{tmp_path}/d"
    assert train_settings([*flags, "--data-root=~/e"]).data_root == f"{tmp_path}/e"
    assert TrainSettings(**CELL, results_root="~nobody-of-this-name/~").results_root == "~nobody-of-this-name/~"
    assert TrainSettings(**CELL, pretrained="none").pretrained == "none"
    for args in (parsed(["evaluate", "~/run", "--data-root=~/d"]), parsed(["evaluate", "~/run"])):
        assert (args.path, args.data_root) == (f"{tmp_path}/run", f"{tmp_path}/d")


@pytest.mark.parametrize(
    "path", ["a\0b", "a/" + "b" * 256 + "/c", "a/" * 2048, "\ud800"], ids=["NUL", "name", "path", "surrogate"]
)
def test_what_no_file_can_be_called_is_refused(path):
    for changes in ({"results_root": path}, {"data_root": path}, {"pretrained": path}, {"dataset": f"NPZ:{path}"}):
        with pytest.raises(BadInput, match="a path of 1 to 4095 bytes, and each name in it of at most 255"):
            TrainSettings(**CELL | changes)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "-lr-30-trial-1"),
        ({"warmup": 0}, "-lr-30-trial-1"),
        ({"lr_adjust": "adaptive"}, "-lr-adaptive-trial-1"),
        ({"lr_adjust": "60,80,90"}, "-lr-60-80-90-trial-1"),
        ({"lr_adjust": "cosine", "warmup": 5, "exp_spec": "mine"}, "-lr-cosine-warmup-5-mine-trial-1"),
    ],
)
def test_a_runs_name_shows_the_schedule(changes, part):
    assert run_name(TrainSettings(**CELL, **changes)).endswith(f"-1bits{part}")
    assert TrainSettings(**CELL, warmup=0, validation=0) == TrainSettings(**CELL)


def test_a_runs_name_fits_into_a_file_system(tmp_path):
    usual = len(run_name(TrainSettings(**CELL, exp_spec="e")))
    longest = run_path(TrainSettings(**CELL, exp_spec="e" * (256 - usual), results_root=str(tmp_path)))
    longest.mkdir(parents=True)
    with pytest.raises(BadInput, match="would have 256 bytes, and a file system takes 255: make -e/--exp-spec shorter"):
        run_path(TrainSettings(**CELL, exp_spec="e" * (257 - usual)))


def test_the_help_states_the_limits(capsys):
    with pytest.raises(SystemExit):
        parsed(["train", "-h"])
    text = " ".join(capsys.readouterr().out.split())
    for limit in ("1 to 1000000", "1 to 100 ", "1 to 10000", "1 to 8", "at most 1e38", "0 to 256"):
        assert f"; {limit.strip()}" in text


def test_an_unknown_setting_is_refused():
    with pytest.raises(BadInput, match="here: there is no setting --learning-rate"):
        TrainSettings.from_values(CELL | {"learning_rate": 1}, "here")
    with pytest.raises(TypeError):
        TrainSettings(**CELL, learning_rate=1)


def test_settings_are_resolved_and_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAQUANT_DATA", "there")
    made = TrainSettings(model="ResNet20", dataset="NPZ:own.npz", results_root="R", backward="STE", hidden_size=5)
    assert made.dataset == f"NPZ:{tmp_path / 'own.npz'}"
    assert (made.data_root, made.pretrained) == ("there", "R/ResNet20-NPZ-own/ResNet20-NPZ-own-pretrain.pth")
    assert [getattr(made, name) for name in (*META_OPTIONS, *LEARNED_DEFAULTS)] == [None] * 12
    assert replace(made) == made
    with pytest.raises(FrozenInstanceError):
        made.epochs = 3


def test_notes_at_the_fields():
    """The settings that may differ decide which runs are one run: a new one is a decision, not an accident."""
    assert {*MAY_DIFFER} == {"data_root", "results_root", "device", "workers", "checkpoint_every", "eager", "stop_after"}
    assert {*CUDA_ONLY} == {"deterministic", "eager"}
    assert {*META_OPTIONS.values()} == {option for name in META_NETWORKS for option in META_NETWORKS.options(name)}
    assert LEARNED_DEFAULTS == {
        "phi": None,
        "freeze_phi_after": None,
        "meta_lr": 1e-3,
        "meta_lr_adjust": False,
        "meta_weight_decay": 0.0,
        "update_order": "notebook",
    }
    assert all(entry.metadata["text"] for entry in settings_of(TrainSettings).values())


def test_pretraining_has_defaults_of_its_own():
    made = PretrainSettings(**CELL)
    assert (made.init_lr, made.epochs, made.lr_adjust, made.weight_decay) == (0.1, 200, 60, 5e-4)
    assert (made.optimizer, made.momentum) == ("SGD-M", 0.9)
    assert PretrainSettings.of(parsed(["pretrain", "-m", "ResNet20", "-d", "CIFAR10"])) == made
    assert PretrainSettings.from_record(made.as_dict()) == made


def test_ones_own_quantizer_and_meta_network_are_names_like_others(monkeypatch):
    class Ternary:
        def __init__(self, bits=2):
            if bits != 2:
                raise ValueError(f"Ternary takes 2 bits, not {bits}")

    class Gain:
        def __init__(self, hidden_size=7):
            pass

    monkeypatch.setitem(QUANTIZERS, "ternary", Ternary)
    monkeypatch.setitem(META_NETWORKS, "Gain", Gain)
    made = train_settings(["-m", "ResNet20", "-d", "CIFAR10", "-q", "ternary", "-bw", "2", "-meta", "Gain"])
    assert made == TrainSettings(**CELL, quantizer="ternary", bits=2, backward="Gain")
    assert made.meta_network_options() == {"hidden_size": 7}
    assert train_settings(made.arguments()) == made
    assert run_name(made) == "Meta-Gain-Nonlinear-None-hidden-size-7-ternary-SGD-2bits-lr-30-trial-1"
    assert TrainSettings(**CELL, quantizer="ternary").bits == 2  # the default of its class
    with pytest.raises(BadInput, match="-bw/--bits 1: Ternary takes 2 bits, not 1"):
        TrainSettings(**CELL, quantizer="ternary", bits=1)


@pytest.mark.parametrize(("quantizer", "bits"), [("dorefa", 1), ("BWN-F", 1), ("LSQ", 1), ("ternary", 2), ("TTQ", 2)])
def test_bits_are_the_quantizers_own_unless_they_are_given(quantizer, bits):
    made = TrainSettings(**CELL, quantizer=quantizer)
    assert (made.bits, made.as_dict()["bits"]) == (bits, bits)
    assert f"-{bits}bits-" in run_name(made)
    assert made == TrainSettings(**CELL, quantizer=quantizer, bits=bits) == train_settings(made.arguments())


def test_a_quantizers_learning_rate():
    """Only with parameters of the quantizer's own; alpha's own value is the default, and a record of before is the same run."""
    made = TrainSettings(**CELL, quantizer="LSQ", quantizer_lr=0)
    assert made.as_dict()["quantizer_lr"] == 0.0
    assert train_settings(made.arguments()) == TrainSettings.from_record(made.as_dict()) == made
    assert TrainSettings(**CELL, quantizer="LSQ", quantizer_lr=1e-3) == TrainSettings(**CELL, quantizer="LSQ")
    assert TrainSettings(**CELL, quantizer_lr=0.1) == TrainSettings(**CELL)


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


def test_a_records_whole_numbers_lie_in_their_settings_range():
    record = {"state": "done", "settings": {"trial": 10**18}}
    with pytest.raises(ValueError, match="setting 'trial' must be a whole number from 1 to 1000000"):
        check_record_fields(record)
    with pytest.raises(ValueError, match="setting 'tf32' must be true or false, not 'yes'"):
        check_record_fields({"state": "done", "settings": {"tf32": "yes"}})
