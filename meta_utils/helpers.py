"""The loop's own steps on a whole net: meta gradients for all layers from one evaluation of M, and the parameter update."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import record_function

from meta_utils.meta_network import require_method
from meta_utils.optimizee import apply_gradients
from utils.quantize import Quantizer, ste_gradient


@record_function("meta")
def meta_gradient_generation(
    meta_net: nn.Module, net: nn.Module, meta_method: str, meta_hidden_state_dict: dict
) -> tuple[dict[str, tuple], dict]:
    """g_W_tilde = M(g_W_hat, W_tilde) for every layer, from the last training forward and backward: step 2 of the loop.

    Returns (meta_grad_dict, hidden). meta_grad_dict: layer name -> (path, g_W_tilde with the shape of W and a graph to phi,
    the layer's bias gradient or None). hidden: M's state for the next call, {} at the start and for a network without one.
    Raises ValueError where meta_method does not name meta_net's class, RuntimeError where a layer has no g_W_hat yet.
    """
    require_method(meta_method, meta_net)
    g_W_hat, W_tilde = net.meta.get("g_W_hat"), net.meta.get("W_tilde")
    g_W_tilde, hidden = meta_net(g_W_hat, W_tilde, meta_hidden_state_dict)
    pieces = net.meta.layout.split(g_W_tilde)
    meta_grad_dict = {}
    for (name, path), layer, piece in zip(net.layer_name_list, net.meta_layers(), pieces, strict=True):
        meta_grad_dict[name] = (path, piece, None if layer.bias is None else layer.bias.grad)
    return meta_grad_dict, hidden


class GradientComparison(NamedTuple):
    """scale: M's s where M is a scalar, else |g_W_tilde| / |g_W_hat|; cosine: between M's g_W and STE's, all layers as one."""

    scale: float
    cosine: float


@torch.no_grad()
def compare_with_ste(
    meta_net: nn.Module, net: nn.Module, quantizer: Quantizer, meta_hidden_state_dict: dict
) -> GradientComparison:
    """What M would make of the last iteration's g_W_hat beside what STE would; changes nothing."""
    g_W_hat, layout, W = net.meta.get("g_W_hat"), net.meta.layout, net.meta.weights()
    g_W_tilde, _ = meta_net(g_W_hat, net.meta.get("W_tilde"), meta_hidden_state_dict)
    g_W = quantizer.calibration(W, layout) * g_W_tilde
    s = meta_net.scale()
    scale = g_W_tilde.norm() / g_W_hat.norm() if s is None else s
    cosine = F.cosine_similarity(g_W, ste_gradient(quantizer, W, g_W_hat, layout), dim=0)
    return GradientComparison(scale.item(), cosine.item())


@record_function("meta")
def assign_meta_gradients(net: nn.Module) -> None:
    """weight.grad <- stopgrad(calibration(W) * g_W_tilde) for every meta layer, as last folded: step 6 of the loop."""
    flat = net.meta.get("g_W")
    del net.meta.kept["g_W"]  # the gradients are views of it, and are refined in place
    for layer, g_W in zip(net.meta_layers(), net.meta.layout.split(flat), strict=True):
        layer.weight.grad = g_W


@record_function("update")
def update_parameters(net: nn.Module, lr: float) -> None:
    """p <- p - lr p.grad for every parameter with a gradient: step 8 of the loop."""
    apply_gradients([p for p in net.parameters() if p.grad is not None], lr)
