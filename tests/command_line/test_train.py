"""What `train` leaves in a run's folder, which run that is, and meta networks of one's own."""

import json
import resource

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_utils.meta_network import MetaNetwork
from meta_utils.SGD import SGD
from utils.choices import META_NETWORKS, OPTIMIZEES, OptimizeeChoice
from utils.quantize import Evaluation


def test_run_folders_and_files(train):
    run = train("-meta", "LSTMFC", "-hidden", "4", "-q", "BWN", "-o", "Adam", "-ad", "1", "-e", "try", "--trial", "3")
    assert run.path.name == "Meta-LSTMFC-Nonlinear-None-hidden-size-4-nlstm-1-BWN-Adam-1bits-lr-1-try-trial-3"
    assert run.path.parent.name == "runs-Quant"
    assert run.path.parent.parent.name == "ResNet8-NPZ-tiny"
    relu = train("-meta", "FC-Grad", "-nonlinear", "relu")
    assert relu.path.name == "Meta-FC-Grad-Nonlinear-relu-hidden-size-100-dorefa-SGD-1bits-lr-30-trial-1"
    assert train().path.name == "Meta-MultiFC-Nonlinear-None-hidden-size-100-nfc-3-dorefa-SGD-1bits-lr-30-trial-1"
    rows = {name: [row.split(", ") for row in log.splitlines()] for name, log in run.logs.items()}
    assert [row[0] for row in rows["loss"]] == [row[0] for row in rows["lr"]] == ["0", "1", "2", "3"]
    assert [row[1] for row in rows["lr"]] == ["0.05", "0.05", "0.005", "0.005"]
    assert [row[0] for row in rows["test-acc"]] == ["1", "2"]
    assert list(run.path.glob("events.out.tfevents*"))
    record = run.record
    assert record.keys() >= {"versions", "device", "git", "hostname", "command", "started", "ended", "peak_memory"}
    assert len(record["seconds_per_epoch"]) == 2
    assert 1e8 < record["peak_memory"]["cpu_rss"] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    adam = {"betas": [0.9, 0.999], "eps": 1e-8, "amsgrad": False}
    published, torchs = adam | {"bias_corrected_eps": False}, adam | {"bias_corrected_eps": True}
    assert record["optimizers"]["net"] == {"weight_decay": 5e-4, **published}
    assert record["optimizers"]["meta_net"] == {"weight_decay": 0.0, **torchs}
    assert record["versions"]["torch"] == torch.__version__
    assert record["result"]["top1"] == pytest.approx(float(rows["test-acc"][-1][1]))


def test_tensorboard_shows_ms_gradient_beside_stes(train):
    accumulators = [EventAccumulator(str(train("-meta", method).path)).Reload() for method in ("FC-Grad", "STE")]
    learned, ste = (set(accumulator.Tags()["scalars"]) for accumulator in accumulators)
    means = {f"layers/{column}/all" for column in ("flipped", "oscillating", "distance", "cosine")}
    assert {tag for tag in ste if not tag.startswith("layers/")} == {"train/loss", "train/accuracy", "lr/alpha", "test/accuracy"}
    assert means - ste == {"layers/cosine/all"}
    assert means <= learned
    assert {tag for tag in learned - ste if "cosine/" not in tag} == {"meta/scale", "meta/cosine with STE", "lr/gamma"}
    (cosine,) = accumulators[0].Scalars("meta/cosine with STE")
    assert abs(cosine.value) == pytest.approx(1, abs=1e-4)  # FC-Grad is a number times g_W_hat, and so is dorefa's STE


def test_a_run_is_the_same_run_by_another_spelling_of_its_settings(call_main, tmp_path, tiny_set, base_model):
    """A base model's path with a doubled slash; a record from before a switch was there. A switch that is on is another run."""
    command = ["train", "-m", "ResNet8", "-d", tiny_set, "-n", 1, "--results-root", tmp_path / "R", "--pretrained"]
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
    assert "drop_last off there and True here" in other.err


class Needs(MetaNetwork):
    def __init__(self, hidden_size):
        super().__init__()


def test_a_meta_network_whose_option_has_no_default_is_refused(refuses, monkeypatch, tiny_set):
    monkeypatch.setitem(META_NETWORKS, "Needs", Needs)
    command = ["train", "-m", "ResNet20", "-d", tiny_set, "-meta", "Needs", "--pretrained", "none"]
    refuses(command, ["--backward Needs", "must give hidden_size a default"])


def test_a_meta_network_that_is_not_linear_by_default_is_refused(refuses, monkeypatch, tiny_set):
    """--meta-nonlinear none would have no effect."""

    class Bent(Needs):
        def __init__(self, hidden_size=100, use_nonlinear="relu"):
            super().__init__(hidden_size)

    monkeypatch.setitem(META_NETWORKS, "Bent", Bent)
    command = ["train", "-m", "ResNet20", "-d", tiny_set, "-meta", "Bent", "--pretrained", "none"]
    refuses(command, ["--backward Bent", "default of use_nonlinear must be None"])


class Unclipped(MetaNetwork):
    def forward(self, g_W_hat, W_tilde, state=None):
        return g_W_hat, {}


def test_an_estimator_with_nothing_to_learn_trains(train, monkeypatch):
    monkeypatch.setitem(META_NETWORKS, "Unclipped", Unclipped)
    fixed = train("-meta", "Unclipped")
    assert fixed.record["state"] == "done"
    identity = train("-meta", "FC-Grad", "--meta-init", "identity")
    assert fixed.logs["loss"].splitlines()[:2] == identity.logs["loss"].splitlines()[:2]


def test_an_optimizee_that_cannot_be_made_is_one_line(refuses, monkeypatch, tiny_set, tmp_path):
    class Plain(SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr=lr)

    monkeypatch.setitem(OPTIMIZEES, "Plain", OptimizeeChoice(Plain, 0.0, 0.0))
    command = ["train", "-m", "ResNet8", "-d", tiny_set, "-o", "Plain", "-meta", "STE", "--pretrained", "none"]
    refuses([*command, "--results-root", tmp_path], ["--optimizer Plain: ", "weight_decay"])


def test_the_record_has_the_last_and_the_best_accuracy(train, monkeypatch):
    accuracies = iter((70.0, 60.0))
    monkeypatch.setattr("utils.run.epochs.evaluate", lambda *arguments: Evaluation(1.0, next(accuracies), 100.0))
    result = train("-meta", "STE").record["result"]
    assert result == {"loss": 1.0, "top1": 60.0, "top5": 100.0, "best_top1": 70.0}
