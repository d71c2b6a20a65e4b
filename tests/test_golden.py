"""The 12 golden trajectories (tests/golden/README.md): our loop returns the published implementation's numbers."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from meta_utils.adam import Adam
from meta_utils.SGD import SGD
from meta_utils.training import TrainingLoop
from models_CIFAR.quantized_meta_resnet import resnet20_cifar
from utils.choices import META_NETWORKS
from utils.miscellaneous import get_layer
from utils.quantize import get_quantizer

CASES = json.loads((Path(__file__).parent / "golden" / "trajectories.json").read_text())


def draw(name, shape, scale, offset=0.0):
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return torch.from_numpy(offset + scale * noise)


@torch.no_grad()
def build(method, optimizer, device="cpu"):
    net = resnet20_cifar(bitW=1).double().to(device)
    for name, p in net.named_parameters():
        if p.dim() > 1:
            p.copy_(draw(name, p.shape, 0.5))
        elif name.endswith("bias"):
            p.copy_(draw(name, p.shape, 0.1))
        else:
            p.copy_(draw(name, p.shape, 0.1, 1.0))
    meta_net = META_NETWORKS.load(method)(hidden_size=100).double().to(device)
    for i, p in enumerate(meta_net.parameters()):
        p.copy_(draw(f"meta/{i}", p.shape, 0.1))
    make = {"SGD": SGD, "Adam": lambda params, lr: Adam(params, lr=lr, weight_decay=5e-4)}[optimizer]
    return net, meta_net, make(net.parameters(), lr=0.05)


def summary(tensor):
    flat = tensor.detach().flatten()
    return [flat.sum().item(), flat.abs().sum().item(), *flat[:5].tolist()]


def ids(case):
    return "-".join(case["config"].values())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_golden_trajectory(case, device):
    method, quantizer, optimizer = (case["config"][key] for key in ("method", "quantizer", "optimizer"))
    expected = case["result"]
    net, meta_net, optimizee = build(method, optimizer, device)
    meta_optimizer = torch.optim.Adam(meta_net.parameters(), lr=1e-2)
    loop = TrainingLoop(net, optimizee, get_quantizer(quantizer), meta_net, meta_optimizer)
    losses = []
    for t in range(6):
        inputs = torch.from_numpy(np.random.RandomState(1000 + t).standard_normal((8, 3, 32, 32)))
        targets = torch.from_numpy(np.random.RandomState(2000 + t).randint(0, 10, 8))
        losses.append(loop.step(inputs.to(device), targets.to(device))[0].item())
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-7)
    for name, numbers in expected["weights"].items():
        weight = get_layer(net, name.split(".")).weight
        np.testing.assert_allclose(summary(weight), numbers, rtol=1e-7, err_msg=name)
    for name, parameter in (("fc_bias", net.fc.bias), ("bn1_weight", net.bn1.weight), ("bn1_bias", net.bn1.bias)):
        np.testing.assert_allclose(summary(parameter), expected[name], rtol=1e-7, err_msg=name)
    for parameter, numbers in zip(meta_net.parameters(), expected["meta"], strict=True):
        np.testing.assert_allclose(summary(parameter), numbers, rtol=1e-7)
    net.eval()
    with torch.no_grad():
        images = torch.from_numpy(np.random.RandomState(9).standard_normal((4, 3, 32, 32)))
        logits = net(images.to(device), quantized_type=quantizer)
    np.testing.assert_allclose(logits[0].cpu().numpy(), expected["eval_logits"], rtol=1e-7)
