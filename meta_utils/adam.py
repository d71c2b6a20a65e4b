"""Adam and AMSGrad as an optimizee."""

import torch
from torch import Tensor

from meta_utils.optimizee import Optimizee


class Adam(Optimizee):
    """pi(g) = m sqrt(1 - beta2^t) / (1 - beta1^t) / (sqrt(v) + eps), weight decay added to g: Adam as the published runs had it.

    bias_corrected_eps: eps is added to sqrt(v / (1 - beta2^t)) instead, which is torch.optim.Adam (STE's, and phi's); in the
    first iterations the published form has the larger eps, by up to 1 / sqrt(1 - beta2) = 32.
    amsgrad: v is replaced by the largest v so far.
    Raises ValueError for a negative lr, eps or weight decay and for betas outside [0, 1).
    """

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        bias_corrected_eps: bool = False,
    ):
        if not eps >= 0:
            raise ValueError(f"eps must be at least 0, not {eps}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be two numbers in [0, 1), not {betas}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, {**defaults, "bias_corrected_eps": bias_corrected_eps})

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's; the step counts go to the parameters' device, too, where a group's equal ones are one tensor again."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            shared: dict[tuple, Tensor] = {}
            for p in filter(self.state.get, group["params"]):
                step = torch.as_tensor(self.state[p]["step"]).to(p.device, _count_dtype(p))
                self.state[p]["step"] = shared.setdefault((step.item(), step.dtype, step.device), step)

    def refine(self, group: dict, params: list[Tensor], grads: list[Tensor], states: list[dict]) -> None:
        self._start(group, params, states)
        steps = {id(state["step"]): state["step"] for state in states}
        for step in steps.values():  # one, unless parameters have gradients at different times
            members = [index for index, state in enumerate(states) if state["step"] is step]
            together = ([values[index] for index in members] for values in (params, grads, states))
            self._refine(group, step.add_(1), *together)

    def _start(self, group: dict, params: list[Tensor], states: list[dict]) -> None:
        """Makes the state of new parameters. Those that have had all their gradients at the same times share their step count."""
        steps: dict[tuple, Tensor] = {}
        for p, state in zip(params, states, strict=True):
            if not state:
                kind = p.dtype, p.device
                state["step"] = steps.setdefault(kind, torch.zeros((), dtype=_count_dtype(p), device=p.device))
                for moment in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])):
                    state[moment] = torch.zeros_like(p, memory_format=torch.preserve_format)
        for p in group["params"]:
            if p.grad is None and self.state.get(p):
                self.state[p]["step"] = self.state[p]["step"].clone()

    @staticmethod
    def _refine(group: dict, step: Tensor, params: list[Tensor], grads: list[Tensor], states: list[dict]) -> None:
        """Of parameters that share a step count, now t: it stays on the device, and nothing here waits for it."""
        beta1, beta2 = group["betas"]
        t = step.double()
        mean_correction, root_correction = 1 - beta1**t, (1 - beta2**t).sqrt()
        mean, square = ([state[moment] for state in states] for moment in ("exp_avg", "exp_avg_sq"))
        if group["weight_decay"]:
            torch._foreach_add_(grads, params, alpha=group["weight_decay"])
        torch._foreach_lerp_(mean, grads, 1 - beta1)
        torch._foreach_mul_(square, beta2)
        torch._foreach_addcmul_(square, grads, grads, value=1 - beta2)
        if group["amsgrad"]:
            largest = [state["max_exp_avg_sq"] for state in states]
            torch._foreach_maximum_(largest, square)
            square = largest
        denominator = torch._foreach_sqrt(square)
        if group["bias_corrected_eps"]:
            torch._foreach_div_(denominator, root_correction.to(params[0].dtype))
            torch._foreach_add_(denominator, group["eps"])
            torch._foreach_mul_(denominator, mean_correction.to(params[0].dtype))
        else:
            torch._foreach_add_(denominator, group["eps"])
            torch._foreach_mul_(denominator, (mean_correction / root_correction).to(params[0].dtype))
        torch._foreach_copy_(grads, mean)
        torch._foreach_div_(grads, denominator)


def _count_dtype(p: Tensor) -> torch.dtype:
    """Of a parameter's step count, which bf16 would stop at 256."""
    return torch.float64 if p.dtype == torch.float64 else torch.float32
