"""The epochs of a run: whether its iterations are captured, and what is recorded of that."""

import json

import numpy as np
import pytest
import torch
from tape import CannotCapture, Tape

from meta_utils.meta_network import MetaFC
from meta_utils.metaquantize import metaquantize
from meta_utils.prox_quant import ProxQuant
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from models_CIFAR.resnet import ResNet
from utils.batches import ImageSet, ResidentLoader
from utils.quantize import evaluate, get_quantizer
from utils.recorder import Recorder
from utils.run import epochs
from utils.run.build import build_loop
from utils.run.epochs import checked_iterations, train_epoch
from utils.run.folder.run import Run
from utils.run.settings import PretrainSettings, TrainSettings


def little_loader(number=20):
    images = torch.randint(256, (number, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ResidentLoader(ImageSet(images, torch.arange(number) % 10, 10, (0.5,) * 3, (0.5,) * 3), "train", 4)


@pytest.mark.parametrize("lags", [False, True], ids=["read at once", "read at the epoch's end, as on CUDA"])
def test_ms_gain_is_that_of_the_iteration_it_is_recorded_for(lags, tmp_path, monkeypatch):
    """The first, and then one in COMPARE_EVERY: each by M as it is then, however seldom iterations are read."""
    torch.manual_seed(0)
    monkeypatch.setattr("utils.run.epochs.COMPARE_EVERY", 2)
    net, meta_net, gains, expected = metaquantize(ResNet(8)), MetaFC(), [], []
    phi = torch.optim.Adam(meta_net.parameters(), lr=0.1)
    loop = TrainingLoop(net, SGD(net.parameters(), lr=0.1), get_quantizer("dorefa"), meta_net, phi)
    step = loop.step

    def counted(*batch):
        result = step(*batch)
        expected.extend([meta_net.gain().item()] if loop.iteration % 2 else [])
        return result

    monkeypatch.setattr(loop, "step", counted)
    settings = PretrainSettings(model="ResNet20", dataset="Digits", epochs=1)
    with Run(tmp_path / "run", settings, torch.device("cpu")) as run, Recorder(run.path) as recorder:
        monkeypatch.setattr(recorder, "record_gradient", lambda gain, cosine, meta_lr: gains.append(float(gain)))
        iterations = checked_iterations(loop, little_loader(), None, 0, run)
        iterations._lags = lags
        train_epoch(iterations, recorder, run)
    assert len(expected) == 3
    assert gains == pytest.approx(expected)


@pytest.mark.parametrize(
    ("graphs", "captured"), [(None, False), (Tape(), True), (CannotCapture(), False)], ids=["eager", "captured", "fails"]
)
def test_run_json_says_whether_iterations_are_captured(graphs, captured, tmp_path, capsys):
    torch.manual_seed(0)
    net = metaquantize(ResNet(8)).to(memory_format=torch.channels_last)
    loop = TrainingLoop(net, SGD(net.parameters(), lr=0.1), get_quantizer("dorefa"))
    loader = little_loader()
    settings = PretrainSettings(model="ResNet20", dataset="Digits", epochs=1, lr_adjust="cosine")
    with Run(tmp_path / "run", settings, torch.device("cpu")) as run, Recorder(run.path) as recorder:
        iterations = checked_iterations(loop, loader, graphs, 0, run)
        assert loop.iteration == 0
        train_epoch(iterations, recorder, run)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["captured"] is captured
    error = capsys.readouterr().err
    if isinstance(graphs, CannotCapture):
        assert record["eager_because"].startswith("the capture failed: CUDA out of memory. Tried to allocate 2.00 GiB (tape.py:")
        assert "iterations run eagerly" in error
        assert record["eager_because"] in error
    else:
        assert "eager_because" not in record
        assert "eagerly" not in error
    assert len((tmp_path / "run" / "loss.txt").read_text().splitlines()) == 5
    assert getattr(graphs, "replays", 0) == (4 + 2 if captured else 0)  # of the check, and after the warm-up of 3
    if captured:
        assert graphs.captures == 2  # in the check and after it, although alpha changes in every iteration


CPU = torch.device("cpu")


def settings_of(backward, **changes):
    given = {"model": "ResNet8", "dataset": "Digits", "quantizer": "BWN", "pretrained": "none", "epochs": 3}
    return TrainSettings(backward=backward, **given | changes)


def test_what_depends_on_progress_ends_with_the_run():
    assert build_loop(settings_of("EDE"), little_loader(), CPU).iterations == 3 * 5


def test_proxquant_trains_in_full_precision():
    loop = build_loop(settings_of("ProxQuant"), little_loader(), CPU)
    assert loop.training_quantizer is None
    assert loop.after_step == (ProxQuant(loop.quantizer),)


@pytest.mark.parametrize("backward", ["BinaryRelax", "ProxQuant"])
def test_an_epoch_is_tested_with_the_quantized_weights(backward):
    """Whatever the training forward computes with."""
    torch.manual_seed(0)
    loader = little_loader()
    loop = build_loop(settings_of(backward), loader, CPU)
    data = [loader.take(size) for size in loader.begin(0)]
    loop.step(*data[0])
    found = epochs.test(loop, data, None, "test")
    assert found == evaluate(loop.net, loop.quantizer, data)
    assert found != evaluate(loop.net, loop.training_quantizer, data)


@pytest.mark.parametrize("follows", [False, True])
def test_gamma_follows_an_adaptive_drop_of_alpha_where_it_is_asked_to(follows, tmp_path):
    settings = settings_of("FC-Grad", lr_adjust="adaptive", meta_lr_adjust=follows)
    loop = build_loop(settings, little_loader(), CPU)
    with Recorder(tmp_path) as recorder:
        for _ in range(4):  # the last three without a new lowest loss
            recorder.reset_performance()
            recorder.update(loss=1.0, acc=50.0, batch_size=1)
            recorder.update(loss=None, acc=50.0, batch_size=0, is_train=False)
            epochs.end_epoch(loop, settings, 5, recorder)
    assert (loop.lr, loop.meta_lr) == pytest.approx((1e-4, 1e-4 if follows else 1e-3))


def test_the_logs_are_the_running_means_of_each_epoch(tmp_path, monkeypatch):
    """Of what the iterations measured, weighted by the number of a batch's images; they begin anew with each epoch."""
    torch.manual_seed(0)
    net, seen = metaquantize(ResNet(8)), []
    loop = TrainingLoop(net, SGD(net.parameters(), lr=0.1), get_quantizer("dorefa"))
    step = loop.step

    def noted(images, targets):
        loss, outputs = step(images, targets)
        seen.append((len(targets), loss.item(), 100 * (outputs.argmax(1) == targets).double().mean().item()))
        return loss, outputs

    monkeypatch.setattr(loop, "step", noted)
    settings = PretrainSettings(model="ResNet20", dataset="Digits", epochs=2)
    with Run(tmp_path / "run", settings, CPU) as run, Recorder(run.path) as recorder:
        iterations = checked_iterations(loop, little_loader(18), None, 0, run)
        for _ in range(2):
            train_epoch(iterations, recorder, run)
            recorder.update(loss=None, acc=50.0, batch_size=0, is_train=False)
    sizes, *measured = np.array(seen).reshape(2, 5, 3).transpose(2, 0, 1)
    assert sizes.tolist() == [[4, 4, 4, 4, 2]] * 2
    for name, values in zip(("loss", "train-acc"), measured, strict=True):
        means = np.cumsum(sizes * values, axis=1) / np.cumsum(sizes, axis=1)
        rows = np.loadtxt(tmp_path / "run" / f"{name}.txt", delimiter=",")
        np.testing.assert_allclose(rows[:, 1], means.ravel(), rtol=1e-6)
