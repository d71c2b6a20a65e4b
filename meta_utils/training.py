"""One training iteration of MetaQuant (Algorithm 1), in both orders, and with a fixed estimator such as STE.

`TrainingLoop.notebook_iteration` is the loop that made the published curves, step by step; `TrainingLoop.paper_iteration` is
Algorithm 1 as the paper prints it. Steps and equations are numbered alike in both.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from meta_utils.helpers import (
    GradientComparison,
    assign_meta_gradients,
    compare_with_ste,
    meta_gradient_generation,
    update_parameters,
)
from meta_utils.meta_gradients import NO_META_GRADIENTS
from meta_utils.optimizee import Optimizee, Rates, apply_gradients
from utils.choices import UPDATE_ORDERS
from utils.quantize import Quantizer


class NotFinite(Exception):
    """Raised where an iteration's loss is not finite: args are its value and where in the net that begins. No parameter moved."""


class TrainingLoop:
    """The state between iterations and the iteration itself.

    net: a quantized net in train mode; quantizer: None for full precision.
    optimizee: over net.parameters(), in one group or several with learning rates of their own; a parameter in none stays.
    meta_net, meta_optimizer: M and the optimizer of phi; both None: a fixed estimator passes the gradient through the quantizer.
    Raises ValueError for an unknown order, for one of M and its optimizer without the other, and for M without a quantizer.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizee: Optimizee,
        quantizer: Quantizer | None,
        meta_net: nn.Module | None = None,
        meta_optimizer: Optimizer | None = None,
        update_order: str = "notebook",
    ):
        if update_order not in UPDATE_ORDERS:
            raise ValueError(f"update_order must be one of {', '.join(UPDATE_ORDERS)}, not {update_order!r}")
        if (meta_net is None) != (meta_optimizer is None):
            raise ValueError("a learned gradient takes a meta network and its optimizer, a fixed estimator neither")
        if meta_net is not None and quantizer is None:
            raise ValueError("a learned gradient takes a quantizer")
        self.net, self.optimizee, self.quantizer = net, optimizee, quantizer
        self.meta_net, self.meta_optimizer = meta_net, meta_optimizer
        self.learned = meta_net is not None
        self.update_order = update_order
        self.meta_hidden_state_dict: dict[str, Tensor] = {}
        self.iteration = 0
        self._parameters = len(list(net.parameters()))
        self.checks_loss = next(net.parameters()).device.type == "cpu"  # elsewhere that would wait for the device

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Iteration t on a batch: inputs (B, 3, H, W), targets (B,). Returns the detached loss and logits (B, classes).

        Raises NotFinite, before a parameter is updated, where the loss is not finite and `checks_loss`.
        """
        if self.learned and self.update_order == "paper":
            loss, outputs = self.paper_iteration(inputs, targets)
        else:
            loss, outputs = self.notebook_iteration(inputs, targets)
        self.iteration += 1
        return loss.detach(), outputs.detach()

    def notebook_iteration(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loop in the order of the published curves: the forward of t uses the refined gradient of t-1.

        At t = 0 there are no meta gradients, and nothing is updated. A fixed estimator never has meta gradients, and updates in
        every iteration.
        """
        has_meta_gradients = self.learned and self.iteration > 0
        meta_grad_dict = NO_META_GRADIENTS
        if has_meta_gradients:
            self.meta_optimizer.zero_grad()  # 1: phi's gradients
            meta_grad_dict, self.meta_hidden_state_dict = meta_gradient_generation(  # 2: g_W_tilde = M(g_W_hat, W_tilde), Eq. (3)
                self.meta_net, self.net, meta_hidden_state_dict=self.meta_hidden_state_dict
            )
        outputs = self.net(inputs, self.quantizer, meta_grad_dict, self.rates)  # 3: forward with W', Eqs. (1), (2), (4), (6)
        loss = F.cross_entropy(outputs, targets)  # 4: loss, Eq. (7)
        self._require_finite(loss, inputs, meta_grad_dict)
        self.optimizee.zero_grad(set_to_none=True)
        loss.backward()  # 4: backward, Eq. (8)
        if has_meta_gradients:
            self.meta_optimizer.step()  # 5: phi
            assign_meta_gradients(self.net, meta_grad_dict)  # 6: weight.grad <- stopgrad(u), u of step 3, Eq. (4)
        self.optimizee.get_refine_gradient()  # 7: p.grad <- pi(p.grad)
        if has_meta_gradients or not self.learned:
            update_parameters(self.net, self.rates)  # 8: p <- p - alpha p.grad, Eq. (5)
        return loss, outputs

    def paper_iteration(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Algorithm 1 of the paper: the forward of t computes with the weights after the update of t."""
        if self.iteration == 0:  # there are no meta gradients, and nothing is updated
            outputs = self.net(inputs, self.quantizer)  # 3: line 4, Q(A(W))
            loss = F.cross_entropy(outputs, targets)  # 4: line 6, Eq. (7)
            self._require_finite(loss, inputs, NO_META_GRADIENTS)
            self.optimizee.zero_grad(set_to_none=True)
            loss.backward()  # 4: line 7
            return loss, outputs
        self.meta_optimizer.zero_grad()  # 1: phi's gradients
        meta_grad_dict, self.meta_hidden_state_dict = meta_gradient_generation(  # 2: line 8, Eq. (3)
            self.meta_net, self.net, meta_hidden_state_dict=self.meta_hidden_state_dict
        )
        meta_grad_dict.calibrate(self.quantizer, self.net.meta.weights())  # u, Eq. (4), which step 6 needs before the forward
        assign_meta_gradients(self.net, meta_grad_dict)  # 6: weight.grad <- stopgrad(u)
        self.optimizee.get_refine_gradient()  # 7: p.grad <- pi(p.grad)
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        refined = [p.grad for p in parameters]
        outputs = self.net(inputs, self.quantizer, meta_grad_dict, self.rates)  # 3: lines 3-5, W' = W - alpha pi(g_W), Eq. (6)
        loss = F.cross_entropy(outputs, targets)  # 4: line 6, Eq. (7)
        self._require_finite(loss, inputs, meta_grad_dict)
        self.optimizee.zero_grad(set_to_none=True)
        loss.backward()  # 4: lines 7 and 9, Eq. (8)
        apply_gradients(parameters, self.rates, refined)  # 8: lines 10-12, p <- p - alpha pi; the backward needs the old values
        self.meta_optimizer.step()  # 5: line 13, phi
        return loss, outputs

    @property
    def lr(self) -> float:
        """alpha, of the first group of parameters where there are several."""
        return self.optimizee.param_groups[0]["lr"]

    @property
    def rates(self) -> Rates:
        """alpha of the iteration: one number where all parameters have the same, else parameter -> its group's alpha."""
        groups = self.optimizee.param_groups
        of_all = sum(len(group["params"]) for group in groups) == self._parameters
        if of_all and all(group["lr"] == self.lr for group in groups):
            return self.lr
        return {p: group["lr"] for group in groups for p in group["params"]}

    @property
    def meta_lr(self) -> float | None:
        """gamma, of the first group of phi where there are several; None for a fixed estimator."""
        return self.meta_optimizer.param_groups[0]["lr"] if self.learned else None

    def all_rates(self) -> tuple[float, ...]:
        """alpha of each group of parameters, then gamma of each group of phi."""
        groups = [*self.optimizee.param_groups, *(self.meta_optimizer.param_groups if self.learned else ())]
        return tuple(group["lr"] for group in groups)

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """What the optimizers of the net and, if there is one, of M were built with, learning rates apart."""
        optimizers = {"net": self.optimizee} | ({"meta_net": self.meta_optimizer} if self.learned else {})
        groups = {name: optimizer.param_groups[0] for name, optimizer in optimizers.items()}
        changing = ("params", "lr", "initial_lr")
        return {name: {key: value for key, value in g.items() if key not in changing} for name, g in groups.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on: parameters and buffers, phi, both optimizers, M's state, each
        layer's g_W_hat and W_tilde, each parameter's refined gradient, the iteration.
        """
        return {
            "iteration": self.iteration,
            "net": self.net.state_dict(),
            "gradients": self._gradients(),
            "layers": self.net.meta.state_dict(),
            "optimizee": self.optimizee.state_dict(),
            "meta_net": self.meta_net.state_dict() if self.learned else {},
            "meta_optimizer": self.meta_optimizer.state_dict() if self.learned else {},
            "meta_hidden_state_dict": self.meta_hidden_state_dict,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to a state that `state_dict` gave, on the net's device. Raises RuntimeError for the state of another net."""
        self.net.load_state_dict(state["net"])
        self.optimizee.load_state_dict(state["optimizee"])
        if self.learned:
            self.meta_net.load_state_dict(state["meta_net"])
            self.meta_optimizer.load_state_dict(state["meta_optimizer"])
        device = next(self.net.parameters()).device
        self._set_gradients({name: gradient.to(device) for name, gradient in state["gradients"].items()})
        self.net.meta.load_state_dict(state["layers"])
        self.meta_hidden_state_dict = {name: h.to(device) for name, h in state["meta_hidden_state_dict"].items()}
        self.iteration = state["iteration"]

    def carried(self) -> dict[str, dict[str, Tensor]]:
        """What an iteration leaves in new tensors: the gradients, what the layers show, M's state. All else changes in place."""
        return {"gradients": self._gradients(), "shown": dict(self.net.meta.shown), "hidden": dict(self.meta_hidden_state_dict)}

    def set_carried(self, carried: dict[str, dict[str, Tensor]]) -> None:
        """Puts other tensors in the place of those that `carried` gave."""
        self._set_gradients(carried["gradients"])
        self.net.meta.shown, self.meta_hidden_state_dict = dict(carried["shown"]), dict(carried["hidden"])

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.net.named_parameters() if p.grad is not None}

    def _set_gradients(self, gradients: dict[str, Tensor]) -> None:
        for name, p in self.net.named_parameters():
            p.grad = gradients.get(name)

    def _require_finite(self, loss: Tensor, inputs: Tensor, meta_grad_dict: Mapping[str, tuple]) -> None:
        """Raises NotFinite, before anything is updated, for a loss that is not finite; does not look where it would wait."""
        if self.checks_loss and not math.isfinite(loss.detach()):
            raise NotFinite(f"{loss.item()}", self._first_not_finite(inputs, meta_grad_dict))

    @torch.no_grad()
    def _first_not_finite(self, inputs: Tensor, meta_grad_dict: Mapping[str, tuple]) -> str:
        """Names the first layer, in the order of the forward, whose weight or output is not finite."""
        found: list[str] = []

        def look(name: str, layer: nn.Module, output: Tensor) -> None:
            values = [*layer.parameters(recurse=False), *layer.buffers(recurse=False), output]
            if not found and not all(torch.isfinite(value).all() for value in values):
                found.append(name)

        leaves = [(name, layer) for name, layer in self.net.named_modules() if not list(layer.children())]
        handles = [layer.register_forward_hook(lambda layer, _, out, name=name: look(name, layer, out)) for name, layer in leaves]
        self.net(inputs, self.quantizer, meta_grad_dict, self.rates)
        for handle in handles:
            handle.remove()
        return f"first in layer {found[0]}" if found else "with every layer finite"

    def compare_with_ste(self) -> GradientComparison | None:
        """M's gradient beside STE's after the last iteration; None for a fixed estimator and before the first iteration."""
        if not self.learned or not self.iteration:
            return None
        return compare_with_ste(self.meta_net, self.net, self.quantizer, self.meta_hidden_state_dict)
