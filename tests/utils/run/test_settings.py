"""Settings: the same from every source, resolved where they are made, with the defaults of their command and method."""

import re
from dataclasses import FrozenInstanceError, replace
from itertools import groupby

import pytest
from parsed import REQUIRED, parsed, train_settings

from utils.choices import META_NETWORKS, OPTIMIZEES, QUANTIZERS, methods, usual_bits
from utils.errors import BadInput
from utils.layout import ONE_TENSOR
from utils.options.options import settings_of
from utils.quantizers.quantizer import Unprocessed
from utils.run.common_settings import CUDA_ONLY, MAY_DIFFER
from utils.run.folder.name import run_name
from utils.run.settings import LEARNED_DEFAULTS, META_OPTIONS, PretrainSettings, TrainSettings
from utils.tables.manifest import MANIFEST, PROTOCOLS, read_manifest


def test_every_source_gives_the_same_settings():
    values = {"init_lr": 0.01, "epochs": 7, "drop_last": True, "lr_adjust": "adaptive", "meta_nonlinear": "relu"}
    made = TrainSettings(**REQUIRED, **values)
    texts = {name.replace("_", "-"): str(value).lower() for name, value in values.items()}
    assert TrainSettings.from_values(REQUIRED | values, "a manifest") == made  # TOML's values
    assert TrainSettings.from_values(REQUIRED | texts, "--set") == made
    flags = ["-m", "ResNet20", "-d", "CIFAR10", "-lr", "0.01", "-n", "7", "--drop-last", "-ad", "adaptive", "-nonlinear", "relu"]
    assert train_settings(flags) == made
    assert TrainSettings(**REQUIRED, init_lr=1).init_lr == 1.0
    assert TrainSettings.from_values(REQUIRED | {"exp-spec": 3, "checkpoint-every": 5}, "a manifest").checkpoint_every == "5"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_childs_command_line_gives_the_same_settings_for_every_cell(protocol):
    for table in read_manifest(MANIFEST, protocol).values():
        for row in table:
            settings = TrainSettings.from_values(row.cell._asdict() | row.settings, "test")
            assert train_settings(settings.arguments()) == settings
            assert TrainSettings.from_record(settings.as_dict()) == settings


def test_a_childs_command_line_names_what_is_not_the_default():
    own = {"meta_nonlinear": "tanh", "weight_decay": 0.1, "stop_after": 7, "precision": "bf16", "bits": 2, "pretrained": "none"}
    settings = TrainSettings(**REQUIRED, **own, data_root="D", exp_spec="mine", checkpoint_every="100it", lr_adjust="adaptive")
    words = settings.arguments()
    assert train_settings(words) == settings
    given = {word for word in words if word.startswith("--")}
    always = {"model", "dataset", "quantizer", "bits", "optimizer", "backward", "trial", "data-root", "results-root"}
    named = {name.replace("_", "-") for name in (*own, "exp_spec", "checkpoint_every", "lr_adjust")}
    assert given == {f"--{name}" for name in always | named}


def test_an_unknown_setting_is_refused():
    with pytest.raises(BadInput, match="here: there is no setting --learning-rate"):
        TrainSettings.from_values(REQUIRED | {"learning_rate": 1}, "here")
    with pytest.raises(TypeError):
        TrainSettings(**REQUIRED, learning_rate=1)


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
    made = PretrainSettings(**REQUIRED)
    assert (made.init_lr, made.epochs, made.lr_adjust, made.weight_decay) == (0.1, 200, 60, 5e-4)
    assert (made.optimizer, made.momentum) == ("SGD-M", 0.9)
    assert PretrainSettings.of(parsed(["pretrain", "-m", "ResNet20", "-d", "CIFAR10"])) == made


def test_ones_own_quantizer_and_meta_network_are_names_like_others(monkeypatch):
    class Three(Unprocessed):
        def __init__(self, bits=2):
            if bits != 2:
                raise ValueError(f"Three takes 2 bits, not {bits}")

        def quantize(self, W_tilde, W=None, layout=ONE_TENSOR):
            return W_tilde.sign()

    class Gain:
        def __init__(self, hidden_size=7):
            pass

    monkeypatch.setitem(QUANTIZERS, "three", Three)
    monkeypatch.setitem(META_NETWORKS, "Gain", Gain)
    made = train_settings(["-m", "ResNet20", "-d", "CIFAR10", "-q", "three", "-bw", "2", "-meta", "Gain"])
    assert made == TrainSettings(**REQUIRED, quantizer="three", bits=2, backward="Gain")
    assert made.meta_network_options() == {"hidden_size": 7}
    assert train_settings(made.arguments()) == made
    assert run_name(made) == "Meta-Gain-Nonlinear-None-hidden-size-7-three-SGD-2bits-lr-30-trial-1"
    assert TrainSettings(**REQUIRED, quantizer="three").bits == 2  # the default of its class
    with pytest.raises(BadInput, match="-bw/--bits 1: Three takes 2 bits, not 1"):
        TrainSettings(**REQUIRED, quantizer="three", bits=1)


@pytest.mark.parametrize(("quantizer", "bits"), [("dorefa", 1), ("BWN-F", 1), ("LSQ", 1), ("ternary", 2), ("TTQ", 2)])
def test_bits_are_the_quantizers_own_unless_they_are_given(quantizer, bits):
    made = TrainSettings(**REQUIRED, quantizer=quantizer)
    assert (made.bits, made.as_dict()["bits"]) == (bits, bits)
    assert f"-{bits}bits-" in run_name(made)
    assert made == TrainSettings(**REQUIRED, quantizer=quantizer, bits=bits) == train_settings(made.arguments())


def test_a_quantizers_learning_rate():
    """Only with parameters of the quantizer's own; alpha's own value is the default, and a record of before is the same run."""
    made = TrainSettings(**REQUIRED, quantizer="LSQ", quantizer_lr=0)
    assert made.as_dict()["quantizer_lr"] == 0.0
    assert train_settings(made.arguments()) == TrainSettings.from_record(made.as_dict()) == made
    assert TrainSettings(**REQUIRED, quantizer="LSQ", quantizer_lr=1e-3) == TrainSettings(**REQUIRED, quantizer="LSQ")
    assert TrainSettings(**REQUIRED, quantizer_lr=0.1) == TrainSettings(**REQUIRED)


def test_the_defaults_of_ones_own_meta_network_are_values_that_the_flags_take(monkeypatch):
    class Deep:
        def __init__(self, num_layers=0):
            pass

    monkeypatch.setitem(META_NETWORKS, "Deep", Deep)
    with pytest.raises(
        BadInput, match="--backward Deep: its class's default of num_layers must be a whole number from 1 to 100, not 0"
    ):
        TrainSettings(**REQUIRED, backward="Deep")


@pytest.mark.parametrize("name", META_OPTIONS)
def test_the_defaults_in_help_texts_are_the_registries(name):
    (stated,) = re.findall(r"\(default: (\S+)\)$", settings_of(TrainSettings)[name].metadata["text"])
    options = [META_NETWORKS.options(method) for method in META_NETWORKS]
    assert {str(taken[META_OPTIONS[name]]).lower() for taken in options if META_OPTIONS[name] in taken} == {stated}


def test_the_bits_in_a_help_text_are_the_registries():
    text = settings_of(TrainSettings)["bits"].metadata["text"]
    assert text.endswith("BWN and BWN-F 1, ternary and TTQ 2 (default: 1; ternary, TTQ: 2)")
    assert {name for name in QUANTIZERS if usual_bits(name) == 2} == {"ternary", "TTQ"}


def test_the_weight_decays_in_a_help_text_are_the_registries():
    (stated,) = re.findall(r"as published: (.*)\)$", settings_of(TrainSettings)["weight_decay"].metadata["text"])
    expected = []
    for decays, names in groupby(OPTIMIZEES, lambda name: (OPTIMIZEES[name].decay_learned, OPTIMIZEES[name].decay_ste)):
        expected.append((", ".join(names), *decays))
    assert stated == "SGD 0; SGD-M, Nesterov 5e-4; Adam, AMSGrad 5e-4 with a learned gradient, 0 without"
    assert expected == [("SGD", 0.0, 0.0), ("SGD-M, Nesterov", 5e-4, 5e-4), ("Adam, AMSGrad", 5e-4, 0.0)]


@pytest.mark.parametrize("backward", methods())
def test_every_fixed_gradient_has_stes_adam(backward):
    """Its weight decay and its eps: what differs between STE and another fixed estimator is the estimator alone."""
    made, learned = TrainSettings(**REQUIRED, optimizer="Adam", backward=backward), backward in META_NETWORKS
    assert made.weight_decay == (5e-4 if learned else 0.0)
    assert made.optimizer_options == ({} if learned else {"bias_corrected_eps": True})
