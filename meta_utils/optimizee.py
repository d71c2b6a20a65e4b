"""What the optimizees share: the refined gradient pi(g), Eq. (5), apart from the step that it makes, so that the next forward
pass can compute with a meta gradient before anything is updated.
"""

from collections.abc import Callable, Mapping
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function

from utils.errors import BadPart

Rate = float | Tensor  # a number, or a tensor () on the device: what a captured iteration reads anew whenever it is replayed
Rates = Rate | Mapping[Tensor, Rate]  # alpha: one for all parameters, or each one's own; a parameter without one has 0


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

    device_rates: "DeviceRates | None" = None

    def __init__(self, params, defaults: dict):
        if type(self).refine is Optimizee.refine:
            raise ValueError(f"{type(self).__name__} does not define refine(), which gives pi")
        for name in ("lr", "weight_decay"):
            if name not in defaults:
                raise ValueError(f"the defaults of {type(self).__name__} lack {name}")
            if not defaults[name] >= 0:
                raise ValueError(f"{name} must be at least 0, not {defaults[name]}")
        super().__init__(params, defaults)

    def refine(self, group: dict, params: list[Tensor], grads: list[Tensor], states: list[dict]) -> None:
        """grads <- pi(grads), in place: weight decay, momentum, moments; no learning rate."""
        raise NotImplementedError(f"{type(self).__name__} does not define refine()")

    @record_function("update")
    @torch.no_grad()
    def get_refine_gradient(self) -> None:
        """p.grad <- pi(p.grad), in place, for every parameter with a gradient; the parameters stay as they are. Step 7.

        Raises BadPart where `refine` returns something, which would be lost.
        """
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                returned = self.refine(group, params, [p.grad for p in params], [self.state[p] for p in params])
                if returned is not None:
                    raise BadPart(f"{type(self).__name__}.refine must change the gradients in place and return None")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Refines every gradient in place, then p <- p - lr p.grad. closure: computes the loss and its gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.get_refine_gradient()
        for group, rate in zip(self.param_groups, self.rates(), strict=True):
            apply_gradients([p for p in group["params"] if p.grad is not None], rate)
        return loss

    def rates(self) -> list[Rate]:
        """The learning rate of each group: its number, or a tensor on the device after `use_device_rates`."""
        return [group["lr"] for group in self.param_groups] if self.device_rates is None else self.device_rates.tensors

    def use_device_rates(self) -> None:
        """From now on updates read the rates from tensors on the device; `refresh_rates` writes the groups' numbers there."""
        self.device_rates = self.device_rates or DeviceRates()
        self.refresh_rates()

    def refresh_rates(self) -> None:
        """Before each iteration, and never within a captured one: writes the rates that have changed; does not wait."""
        if self.device_rates is not None:
            self.device_rates.write(self.param_groups)


class DeviceRates:
    """The learning rate of each parameter group as a tensor (), of the type and on the device of the group's parameters.

    A captured iteration reads it where it lies: another rate needs no other capture.
    """

    def __init__(self):
        self.tensors: list[Tensor] = []
        self._written: list[float] = []

    def write(self, groups: list[dict]) -> None:
        """Writes the groups' rates, those that have changed."""
        for index, group in enumerate(groups):
            if index == len(self.tensors):
                self.tensors.append(next(iter(group["params"]), torch.zeros(())).detach().new_zeros(()))  # a group may be empty
                self._written.append(0.0)
            if group["lr"] != self._written[index]:
                self.tensors[index].fill_(group["lr"])
                self._written[index] = group["lr"]


def hyperparameters(optimizer: Optimizer) -> dict[str, Any] | list[dict[str, Any]]:
    """What an optimizer was built with, learning rates apart: of several groups of parameters a list, with an entry for each."""
    changing = ("params", "lr", "initial_lr")
    groups = [{name: value for name, value in group.items() if name not in changing} for group in optimizer.param_groups]
    return groups if len(groups) > 1 else groups[0]


def rate_of(lr: Rates, p: Tensor) -> Rate:
    """The alpha of a parameter."""
    return lr.get(p, 0.0) if isinstance(lr, Mapping) else lr


def minus(x: Tensor, y: Tensor, rate: Rate) -> Tensor:
    """x - rate y, as `apply_gradients` rounds it; keeps the graph."""
    return x - rate * y if isinstance(rate, Tensor) else x.sub(y, alpha=rate)


@torch.no_grad()
def apply_gradients(params: list[Tensor], lr: Rates, grads: list[Tensor] | None = None) -> None:
    """p <- p - lr p.grad for a list of parameters; grads: what to take in place of each p.grad."""
    if not params:
        return
    grads = [p.grad for p in params] if grads is None else grads
    if not isinstance(lr, Mapping):
        _descend(params, grads, lr)
        return
    alike: dict[Any, tuple[Rate, list[Tensor], list[Tensor]]] = {}  # a tensor's value is not looked at, which would wait
    for p, grad in zip(params, grads, strict=True):
        rate = rate_of(lr, p)
        if isinstance(rate, Tensor) or rate:
            _, members, their_grads = alike.setdefault(id(rate) if isinstance(rate, Tensor) else rate, (rate, [], []))
            members.append(p)
            their_grads.append(grad)
    for rate, members, their_grads in alike.values():
        _descend(members, their_grads, rate)


def _descend(params: list[Tensor], grads: list[Tensor], rate: Rate) -> None:
    if isinstance(rate, Tensor):
        torch._foreach_sub_(params, torch._foreach_mul(grads, rate))
    else:
        torch._foreach_add_(params, grads, alpha=-rate)
