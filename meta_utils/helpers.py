"""Steps of the loop on a whole net: meta gradients for all layers from one evaluation of M, and the parameter update."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.profiler import record_function

from meta_utils.meta_gradients import MetaGradients
from meta_utils.meta_network import require_method
from meta_utils.optimizee import Rates, apply_gradients
from utils.errors import BadPart
from utils.quantizers.discretize import require_tensor
from utils.quantizers.quantizer import Quantizer, evaluating, ste_gradient


@record_function("meta")
def meta_gradient_generation(
    meta_net: nn.Module, net: nn.Module, meta_method: str | None = None, meta_hidden_state_dict: dict | None = None
) -> tuple[MetaGradients, dict]:
    """g_W_tilde = M_phi(g_W_hat, W_tilde) for every layer, Eq. (3), from the last training forward and backward: step 2.

    Returns (meta_grad_dict, hidden). meta_grad_dict: layer name -> (path, g_W_tilde with the shape of W and a graph to phi,
    the layer's bias gradient or None). hidden: M's state for the next call, {} at the start and for a network without one.
    meta_method: the method's name, as the notebook gives it. Raises ValueError where it does not name meta_net's class,
    BadPart where M returns something else, RuntimeError where a layer has no g_W_hat yet.
    """
    if meta_method is not None:
        require_method(meta_method, meta_net)
    layers = net.meta
    g_W_hat = layers.get("g_W_hat")
    g_W_tilde, hidden = _as_returned(meta_net, meta_net(g_W_hat, layers.get("W_tilde"), meta_hidden_state_dict or {}), g_W_hat)
    learns = torch.is_grad_enabled() and any(p.requires_grad for p in meta_net.parameters())
    if learns and not g_W_tilde.requires_grad:
        raise BadPart(f"{type(meta_net).__name__} returned g_W_tilde without a gradient for phi, which would never be trained")
    bias_grads = [None if layer.bias is None else layer.bias.grad for layer in layers.layers]
    return MetaGradients(layers.paths, layers.layout, g_W_tilde, bias_grads), hidden


def _as_returned(meta_net: nn.Module, returned: Any, g_W_hat: Tensor) -> tuple[Tensor, dict]:
    """What M returned. Raises BadPart where that is not g_W_tilde, like g_W_hat, and a state."""
    name = type(meta_net).__name__
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise BadPart(f"{name} must return g_W_tilde and its state, a dict; it returned {type(returned).__name__}")
    state = returned[1]
    if not isinstance(state, dict) or not all(isinstance(n, str) and isinstance(h, Tensor) for n, h in state.items()):
        raise BadPart(f"{name} must return as its state a dict of tensors by name, {{}} for none, not {str(state)[:50]}")
    if attached := [n for n, h in state.items() if h.requires_grad]:
        raise BadPart(f"{name} must return a detached state, and its {attached[0]} has a graph")
    require_tensor(name, returned[0], g_W_hat, "g_W_hat")
    return returned


@record_function("meta")
def assign_meta_gradients(net: nn.Module, meta_grad_dict: MetaGradients) -> None:
    """weight.grad <- stopgrad(u), u = calibration(W) * g_W_tilde, for every meta layer, Eq. (4): step 6.

    The gradients are views of u, and are refined in place.
    """
    for layer, g_W in zip(net.meta.layers, net.meta.layout.split(meta_grad_dict.u), strict=True):
        layer.weight.grad = g_W


@record_function("update")
def update_parameters(net: nn.Module, lr: Rates) -> None:
    """p <- p - alpha p.grad for every parameter with a gradient, Eq. (5): step 8. lr: alpha, or each parameter's own."""
    apply_gradients([p for p in net.parameters() if p.grad is not None], lr)


class GradientComparison(NamedTuple):
    """gain: M's s where M is a scalar, else |g_W_tilde| / |g_W_hat|; cosine: between M's g_W and STE's, all layers as one."""

    gain: float
    cosine: float


@torch.no_grad()
def learned_gradient(
    meta_net: nn.Module, net: nn.Module, quantizer: Quantizer, meta_hidden_state_dict: dict
) -> tuple[Tensor, Tensor]:
    """g_W_tilde, and g_W = c g_W_tilde, flat (N,), that M would make of the last iteration's g_W_hat; changes nothing.

    M gets copies of its arguments and buffers, and the random state is restored, because an M of one's own may change them.
    Raises BadPart where it returns something else.
    """
    g_W_hat, W_tilde = net.meta.get("g_W_hat").clone(), net.meta.get("W_tilde").clone()
    state = {name: value.clone() for name, value in meta_hidden_state_dict.items()}
    buffers = {name: value.clone() for name, value in meta_net.named_buffers()}
    with torch.random.fork_rng([g_W_hat.device] if g_W_hat.is_cuda else []):
        returned = functional_call(meta_net, buffers, (g_W_hat, W_tilde, state))
    g_W_tilde, _ = _as_returned(meta_net, returned, g_W_hat)
    return g_W_tilde, quantizer.calibration(net.meta.weights(), net.meta.layout) * g_W_tilde


@torch.no_grad()
def compare_with_ste(
    meta_net: nn.Module, net: nn.Module, quantizer: Quantizer, meta_hidden_state_dict: dict
) -> GradientComparison:
    """What M would make of the last iteration's g_W_hat beside what STE would; changes nothing."""
    layout, W, g_W_hat = net.meta.layout, net.meta.weights(), net.meta.get("g_W_hat")
    with evaluating(quantizer):
        g_W_tilde, g_W = learned_gradient(meta_net, net, quantizer, meta_hidden_state_dict)
        by_ste = ste_gradient(quantizer, W, g_W_hat, layout)
    s = meta_net.gain()
    if isinstance(s, Tensor) and s.numel() != 1:
        raise BadPart(f"{type(meta_net).__name__}.gain must return one number or None, not a tensor of shape {tuple(s.shape)}")
    gain = g_W_tilde.norm() / g_W_hat.norm() if s is None else s
    cosine = F.cosine_similarity(g_W, by_ste, dim=0)
    return GradientComparison(float(gain), float(cosine))
