"""SGD, with momentum, Nesterov momentum and weight decay, as an optimizee."""

import torch
from torch import Tensor

from meta_utils.optimizee import Optimizee


class SGD(Optimizee):
    """pi(g) of torch.optim.SGD: g + weight_decay p, then momentum.

    Raises ValueError for a negative lr, momentum or weight decay, and for Nesterov without momentum or with dampening.
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        if not momentum >= 0:
            raise ValueError(f"momentum must be at least 0, not {momentum}")
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("Nesterov momentum needs a momentum and zero dampening")
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "nesterov": nesterov})

    def refine(self, group: dict, params: list[Tensor], grads: list[Tensor], states: list[dict]) -> None:
        if group["weight_decay"]:
            torch._foreach_add_(grads, params, alpha=group["weight_decay"])
        if not group["momentum"]:
            return
        moving = [(s["momentum_buffer"], g) for s, g in zip(states, grads, strict=True) if s.get("momentum_buffer") is not None]
        if moving:
            old_buffers, new_grads = map(list, zip(*moving, strict=True))
            torch._foreach_mul_(old_buffers, group["momentum"])
            torch._foreach_add_(old_buffers, new_grads, alpha=1 - group["dampening"])
        for state, grad in zip(states, grads, strict=True):
            if state.get("momentum_buffer") is None:
                state["momentum_buffer"] = grad.clone()
        buffers = [s["momentum_buffer"] for s in states]
        if group["nesterov"]:
            torch._foreach_add_(grads, buffers, alpha=group["momentum"])
        else:
            torch._foreach_copy_(grads, buffers)
