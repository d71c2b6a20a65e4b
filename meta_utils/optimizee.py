"""What the optimizees share: the refined gradient pi(g), Eq. (5), apart from the step that it makes, so that the next forward
pass can compute with a meta gradient before anything is updated.
"""

from collections.abc import Callable, Mapping
from inspect import unwrap

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function

Rates = float | Mapping[Tensor, float]  # alpha: one for all parameters, or each one's own; a parameter without one has 0


class Optimizee(Optimizer):
    """A torch.optim.Optimizer whose update is p <- p - lr pi(g), with pi(g) available on its own.

    A subclass gives pi for a list of parameters (`refine`). `step()` equals that of the torch.optim class of
    the same name (Adam: with bias_corrected_eps).
    """

    # torch.optim keeps these four out of what torch.compile compiles, and imports torch.compile for that: a second at every
    # start, for something that is not used here.
    add_param_group = unwrap(Optimizer.add_param_group)
    zero_grad = unwrap(Optimizer.zero_grad)
    state_dict = unwrap(Optimizer.state_dict)
    load_state_dict = unwrap(Optimizer.load_state_dict)

    def __init__(self, params, defaults: dict):
        for name in ("lr", "weight_decay"):
            if not defaults[name] >= 0:
                raise ValueError(f"{name} must be at least 0, not {defaults[name]}")
        super().__init__(params, defaults)

    def refine(self, group: dict, params: list[Tensor], grads: list[Tensor], states: list[dict]) -> None:
        """grads <- pi(grads), in place: weight decay, momentum, moments; no learning rate."""
        raise NotImplementedError(f"{type(self).__name__} does not define refine()")

    @record_function("update")
    @torch.no_grad()
    def get_refine_gradient(self) -> None:
        """p.grad <- pi(p.grad), in place, for every parameter with a gradient; the parameters stay as they are. Step 7."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self.refine(group, params, [p.grad for p in params], [self.state[p] for p in params])

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Refines every gradient in place, then p <- p - lr p.grad. closure: computes the loss and its gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.get_refine_gradient()
        for group in self.param_groups:
            apply_gradients([p for p in group["params"] if p.grad is not None], group["lr"])
        return loss


def rate_of(lr: Rates, p: Tensor) -> float:
    """The alpha of a parameter."""
    return lr.get(p, 0.0) if isinstance(lr, Mapping) else lr


@torch.no_grad()
def apply_gradients(params: list[Tensor], lr: Rates, grads: list[Tensor] | None = None) -> None:
    """p <- p - lr p.grad for a list of parameters; grads: what to take in place of each p.grad."""
    if not params:
        return
    grads = [p.grad for p in params] if grads is None else grads
    if not isinstance(lr, Mapping):
        torch._foreach_add_(params, grads, alpha=-lr)
        return
    rates = [rate_of(lr, p) for p in params]
    for alpha in dict.fromkeys(rate for rate in rates if rate):
        alike = [(p, grad) for p, grad, rate in zip(params, grads, rates, strict=True) if rate == alpha]
        torch._foreach_add_(*map(list, zip(*alike, strict=True)), alpha=-alpha)
