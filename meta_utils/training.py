"""One training iteration of MetaQuant (Algorithm 1), in both orders, and of the STE baseline.

Iteration t, order "notebook" (the default; it made the published curves):
  1. zero phi's gradients
  2. t > 0: g_W_tilde = M(g_W_hat, W_tilde) for every layer, from iteration t-1's values, with a graph to phi
  3. forward with W' = W - alpha (u + stopgrad(r - u)), u = calibration(W) g_W_tilde, r the refined gradient of t-1
  4. zero the parameters' gradients; cross-entropy; backward
  5. step phi
  6. t > 0: weight.grad = stopgrad(calibration(W) g_W_tilde) for every meta layer
  7. refine every gradient in place: p.grad = pi(p.grad)
  8. t > 0: p <- p - alpha p.grad for every parameter
Order "paper", t > 0: 1, 2; 6, 7; the forward of 3 with r = pi(g_W), so that W' is the updated weight itself; 4; 8 with that r; 5.
STE: no 2, no 6, W' = W, and 8 in every iteration from t = 0 on. Without a quantizer it is plain full-precision training.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function

from meta_utils.helpers import (
    GradientComparison,
    assign_meta_gradients,
    compare_with_ste,
    meta_gradient_generation,
    update_parameters,
)
from meta_utils.meta_network import require_method
from meta_utils.optimizee import Optimizee, apply_gradients
from utils.choices import UPDATE_ORDERS
from utils.quantize import Quantizer


class NotFinite(Exception):
    """The loss of an iteration is not finite: its value, and where in the net that begins. No parameter was updated."""


class TrainingLoop:
    """The state between iterations and the iteration itself.

    net: a quantized net in train mode; optimizee: over net.parameters(); quantizer: None for full precision.
    meta_method "STE" is the baseline; any other takes its meta network and the optimizer of phi.
    Raises ValueError for an unknown order, for a learned gradient without quantizer, meta network (of the method's class) or its
    optimizer, and for STE with one of the latter.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizee: Optimizee,
        quantizer: Quantizer | None,
        meta_method: str = "STE",
        meta_net: nn.Module | None = None,
        meta_optimizer: Optimizer | None = None,
        update_order: str = "notebook",
    ):
        if update_order not in UPDATE_ORDERS:
            raise ValueError(f"update_order must be one of {', '.join(UPDATE_ORDERS)}, not {update_order!r}")
        self.learned = meta_method != "STE"
        if self.learned != (meta_net is not None) or self.learned != (meta_optimizer is not None):
            raise ValueError(f"a learned gradient takes a meta network and its optimizer, STE neither (method {meta_method})")
        if self.learned and quantizer is None:
            raise ValueError(f"a learned gradient (method {meta_method}) takes a quantizer")
        if self.learned:
            require_method(meta_method, meta_net)
        self.net, self.optimizee, self.quantizer = net, optimizee, quantizer
        self.meta_method, self.meta_net, self.meta_optimizer = meta_method, meta_net, meta_optimizer
        self.update_order = update_order
        self.meta_hidden_state_dict: dict[str, Tensor] = {}
        self.iteration = 0
        self.checks_loss = next(net.parameters()).device.type == "cpu"  # elsewhere that would wait for the device

    @property
    def lr(self) -> float:
        """alpha."""
        return self.optimizee.param_groups[0]["lr"]

    @property
    def meta_lr(self) -> float | None:
        """gamma; None for STE."""
        return self.meta_optimizer.param_groups[0]["lr"] if self.learned else None

    def hyperparameters(self) -> dict[str, dict[str, Any]]:
        """What the optimizers of the net and, if there is one, of M were built with, learning rates apart."""
        optimizers = {"net": self.optimizee} | ({"meta_net": self.meta_optimizer} if self.learned else {})
        groups = {name: optimizer.param_groups[0] for name, optimizer in optimizers.items()}
        changing = ("params", "lr", "initial_lr")
        return {name: {key: value for key, value in g.items() if key not in changing} for name, g in groups.items()}

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Iteration t on a batch: inputs (B, 3, H, W), targets (B,). Returns the detached loss and logits (B, classes).

        Raises NotFinite, before a parameter is updated, where the loss is not finite and `checks_loss`.
        """
        if self.learned and self.iteration > 0 and self.update_order == "paper":
            loss, outputs = self._paper_iteration(inputs, targets)
        else:
            loss, outputs = self._notebook_iteration(inputs, targets)
        self.iteration += 1
        return loss.detach(), outputs.detach()

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
        """What an iteration leaves in new tensors: the gradients, what the layers keep, M's state. All else changes in place."""
        return {"gradients": self._gradients(), "kept": dict(self.net.meta.kept), "hidden": dict(self.meta_hidden_state_dict)}

    def set_carried(self, carried: dict[str, dict[str, Tensor]]) -> None:
        """Puts other tensors in the place of those that `carried` gave."""
        self._set_gradients(carried["gradients"])
        self.net.meta.kept, self.meta_hidden_state_dict = dict(carried["kept"]), dict(carried["hidden"])

    def _gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.net.named_parameters() if p.grad is not None}

    def _set_gradients(self, gradients: dict[str, Tensor]) -> None:
        for name, p in self.net.named_parameters():
            p.grad = gradients.get(name)

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
        self.net(inputs, self.quantizer, meta_grad_dict, self.lr)
        for handle in handles:
            handle.remove()
        return f"first in layer {found[0]}" if found else "with every layer finite"

    def compare_with_ste(self) -> GradientComparison | None:
        """M's gradient beside STE's after the last iteration; None for STE and before the first iteration."""
        if not self.learned or not self.iteration:
            return None
        return compare_with_ste(self.meta_net, self.net, self.quantizer, self.meta_hidden_state_dict)

    def _notebook_iteration(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        meta_grad_dict = self._meta_gradients() if self.learned and self.iteration > 0 else {}  # 1, 2
        loss, outputs = self._forward(inputs, targets, meta_grad_dict)  # 3
        self._backward(loss)  # 4
        if meta_grad_dict:
            self._step_phi()  # 5
            assign_meta_gradients(self.net)  # 6
        if self.update_order == "notebook" or not self.learned:  # order "paper" refines in the next iteration
            self._refine()  # 7
        if meta_grad_dict or not self.learned:
            update_parameters(self.net, self.lr)  # 8
        return loss, outputs

    def _paper_iteration(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        meta_grad_dict = self._meta_gradients()  # 1, 2: g_W_tilde = M(g_W_hat, W_tilde) of t-1
        self.net.meta.fold(self.quantizer, meta_grad_dict)
        assign_meta_gradients(self.net)  # 6: g_W = calibration(W) g_W_tilde
        self._refine()  # 7: pi(g_W)
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        refined = [p.grad for p in parameters]
        loss, outputs = self._forward(inputs, targets, meta_grad_dict)  # 3: at W' = W - alpha pi(g_W), with a graph to phi
        self._backward(loss)  # 4: g_W_hat of t, and phi's gradient
        with record_function("update"):
            apply_gradients(parameters, self.lr, refined)  # 8: W <- W', after the backward, which needs what the forward read
        self._step_phi()  # 5
        return loss, outputs

    def _meta_gradients(self) -> dict[str, tuple]:
        self.meta_optimizer.zero_grad()
        meta_grad_dict, self.meta_hidden_state_dict = meta_gradient_generation(
            self.meta_net, self.net, self.meta_method, self.meta_hidden_state_dict
        )
        return meta_grad_dict

    @record_function("update")
    def _refine(self) -> None:
        self.optimizee.get_refine_gradient()

    @record_function("meta")
    def _step_phi(self) -> None:
        self.meta_optimizer.step()

    def _forward(self, inputs: Tensor, targets: Tensor, meta_grad_dict: Mapping[str, tuple]) -> tuple[Tensor, Tensor]:
        outputs = self.net(inputs, self.quantizer, meta_grad_dict, self.lr)
        loss = F.cross_entropy(outputs, targets)
        if self.checks_loss and not math.isfinite(loss.detach()):
            raise NotFinite(f"{loss.item()}", self._first_not_finite(inputs, meta_grad_dict))
        return loss, outputs

    @record_function("backward")
    def _backward(self, loss: Tensor) -> None:
        self.optimizee.zero_grad(set_to_none=True)
        loss.backward()
