"""One training iteration of MetaQuant (Algorithm 1), in both orders, and with a fixed estimator such as STE.

`TrainingLoop.notebook_iteration` is the loop that made the published curves, step by step; `TrainingLoop.paper_iteration` is
Algorithm 1 as the paper prints it. Steps and equations are numbered alike in both.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from meta_utils.helpers import (
    GradientComparison,
    assign_meta_gradients,
    compare_with_ste,
    meta_gradient_generation,
    update_parameters,
)
from meta_utils.loop_arguments import check_calls, check_gradient, check_iteration, check_numbers, check_parts, check_weights
from meta_utils.meta_gradients import NO_META_GRADIENTS, MetaGradients
from meta_utils.not_finite import NotFinite, first_not_finite, require_scalar
from meta_utils.optimizee import Optimizee, Rates, apply_gradients, hyperparameters
from utils.quantizers.discretize import Estimator
from utils.quantizers.quantizer import Quantizer, with_estimator


class TrainingLoop:
    """The state between iterations and the iteration itself.

    net: a metaquantized net in train mode; quantizer: None for full precision.
    optimizee: over net.parameters(), in one group or several with learning rates of their own; a parameter in no group is not
    updated.
    meta_net, meta_optimizer: M and the optimizer of phi; both None: a fixed estimator passes the gradient through the quantizer.
    estimator: the fixed one; the default is STE. iterations: how many there will be in all, for an estimator, or a call of
    after_step, that depends on `progress`, which stays 1 in later ones, and is NaN where the number is None.
    criterion: (logits, targets) -> the loss, a scalar. clip: the largest 2-norm of all of the net's gradients together, at which
    they are clipped before they are refined; None: they are not.
    after_step: called with the loop after every update of the parameters. On CUDA they are captured with the iteration, and must
    not wait for the device.
    quantized_forward: False: training computes with W itself, and the quantizer is for evaluations (ProxQuant).
    freeze_phi_after: iterations after which phi is no longer trained (0: from the start), while M still computes g_W_tilde; None:
    phi is always trained.
    Raises ValueError for what does not go together, as the functions of loop_arguments.py say, and for an estimator that the
    quantizer does not take.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizee: Optimizee,
        quantizer: Quantizer | None,
        meta_net: nn.Module | None = None,
        meta_optimizer: Optimizer | None = None,
        update_order: str = "notebook",
        estimator: Estimator | None = None,
        iterations: int | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        clip: float | None = None,
        after_step: Iterable[Callable[["TrainingLoop"], None]] = (),
        quantized_forward: bool = True,
        freeze_phi_after: int | None = None,
    ):
        check_numbers(update_order, clip, iterations, freeze_phi_after)
        check_parts(net, optimizee, quantizer, quantized_forward)
        check_weights(net, meta_net is not None)
        check_gradient(quantizer, meta_net, meta_optimizer, estimator, iterations, quantized_forward, freeze_phi_after)
        self.net, self.optimizee, self._quantizer = net, optimizee, quantizer
        self.criterion, self.clip, self.after_step = criterion, clip, check_calls(after_step)
        self.meta_net, self.meta_optimizer = meta_net, meta_optimizer
        self.learned = meta_net is not None
        self.freeze_phi_after = freeze_phi_after
        self.update_order = update_order
        self.meta_hidden_state_dict: dict[str, Tensor] = {}
        self._parameters = len(list(net.parameters()))
        first = next(net.parameters())
        self.checks_loss = first.device.type == "cpu"  # elsewhere that would wait for the device
        self.iterations = iterations
        self._clock = torch.zeros((), dtype=torch.float64, device=first.device)  # advanced by the device, captured iterations too
        self.progress = first.new_full((), 0 if iterations else math.nan)
        self._set_iteration(0)
        self.training_quantizer = quantizer if quantized_forward else None
        if estimator is not None:
            self.training_quantizer = with_estimator(self.training_quantizer, estimator, self.progress)

    def step(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Iteration t on a batch: inputs (B, 3, H, W), targets (B,). Returns the detached loss and logits (B, classes).

        Raises NotFinite, before a parameter is updated, where the loss is not finite and `checks_loss`; ValueError as
        check_iteration does.
        """
        parameters = list(self.net.parameters())
        check_iteration(self.net, parameters, self.optimizee, self.learned)
        self._parameters = len(parameters)
        if self.learned and self.update_order == "paper":
            loss, outputs = self.paper_iteration(inputs, targets)
        else:
            loss, outputs = self.notebook_iteration(inputs, targets)
        has_updated = not self.learned or self.iteration > 0
        self._advance()
        for call in self.after_step if has_updated else ():
            call(self)
        return loss.detach(), tree_map_only(Tensor, Tensor.detach, outputs)

    def notebook_iteration(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loop in the order of the published curves: the forward of t uses the refined gradient of t-1.

        At t = 0 there are no meta gradients, and nothing is updated. A fixed estimator never has meta gradients, and updates in
        every iteration.
        """
        has_meta_gradients = self.learned and self.iteration > 0
        meta_grad_dict = NO_META_GRADIENTS
        if has_meta_gradients:
            self.meta_optimizer.zero_grad()  # 1: phi's gradients
            meta_grad_dict = self._meta_gradients()  # 2: g_W_tilde = M(g_W_hat, W_tilde), Eq. (3)
        outputs = self.forward(inputs, meta_grad_dict)  # 3: forward with W', Eqs. (1), (2), (4), (6)
        loss = self.criterion(outputs, targets)  # 4: loss, Eq. (7)
        self._require_finite(loss, inputs, meta_grad_dict)
        self.net.zero_grad(set_to_none=True)
        loss.backward()  # 4: backward, Eq. (8)
        if has_meta_gradients:
            self.meta_optimizer.step()  # 5: phi
            assign_meta_gradients(self.net, meta_grad_dict)  # 6: weight.grad <- stopgrad(u), u of step 3, Eq. (4)
        self._clip_gradients()
        self.optimizee.get_refine_gradient()  # 7: p.grad <- pi(p.grad)
        if has_meta_gradients or not self.learned:
            update_parameters(self.net, self.rates)  # 8: p <- p - alpha p.grad, Eq. (5)
        return loss, outputs

    def paper_iteration(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Algorithm 1 of the paper: the forward of t computes with the weights after the update of t."""
        if self.iteration == 0:  # there are no meta gradients, and nothing is updated
            outputs = self.forward(inputs)  # 3: line 4, Q(A(W))
            loss = self.criterion(outputs, targets)  # 4: line 6, Eq. (7)
            self._require_finite(loss, inputs, NO_META_GRADIENTS)
            self.net.zero_grad(set_to_none=True)
            loss.backward()  # 4: line 7
            return loss, outputs
        self.meta_optimizer.zero_grad()  # 1: phi's gradients
        meta_grad_dict = self._meta_gradients()  # 2: line 8, Eq. (3)
        meta_grad_dict.calibrate(self.quantizer, self.net.meta.weights())  # u, Eq. (4), which step 6 needs before the forward
        assign_meta_gradients(self.net, meta_grad_dict)  # 6: weight.grad <- stopgrad(u)
        self._clip_gradients()
        self.optimizee.get_refine_gradient()  # 7: p.grad <- pi(p.grad)
        parameters = [p for p in self.net.parameters() if p.grad is not None]
        refined = [p.grad for p in parameters]
        outputs = self.forward(inputs, meta_grad_dict)  # 3: lines 3-5, W' = W - alpha pi(g_W), Eq. (6)
        loss = self.criterion(outputs, targets)  # 4: line 6, Eq. (7)
        self._require_finite(loss, inputs, meta_grad_dict)
        self.net.zero_grad(set_to_none=True)
        loss.backward()  # 4: lines 7 and 9, Eq. (8)
        apply_gradients(parameters, self.rates, refined)  # 8: lines 10-12, p <- p - alpha pi; the backward needs the old values
        self.meta_optimizer.step()  # 5: line 13, phi
        return loss, outputs

    def forward(self, inputs: Tensor, meta_grad_dict: Mapping[str, tuple] = NO_META_GRADIENTS) -> Tensor:
        """The training forward, step 3: inputs (B, ...) -> logits (B, classes)."""
        return self.net(inputs, self.training_quantizer, meta_grad_dict, self.rates)

    def _meta_gradients(self) -> MetaGradients:
        """Step 2; keeps the graph to phi while that is trained. Frozen, phi has no gradient, and step 5 passes it over."""
        with torch.set_grad_enabled(self.trains_phi):
            meta_grad_dict, self.meta_hidden_state_dict = meta_gradient_generation(
                self.meta_net, self.net, meta_hidden_state_dict=self.meta_hidden_state_dict
            )
        return meta_grad_dict

    def _clip_gradients(self) -> None:
        """Scales the net's gradients down to the 2-norm `clip` where they exceed it, all together."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)

    def _advance(self) -> None:
        """Counts an iteration, on the host and on the device."""
        self.iteration += 1
        self._clock += 1
        if self.iterations:
            self.progress.copy_((self._clock / self.iterations).clamp(max=1))

    def _set_iteration(self, iteration: int) -> None:
        self.iteration = iteration
        self._clock.fill_(iteration)
        if self.iterations:
            self.progress.fill_(min(iteration / self.iterations, 1))

    @property
    def quantizer(self) -> Quantizer | None:
        """Q. It cannot be replaced: the training forward, which has it with an estimator's gradient, would not know of that."""
        return self._quantizer

    @property
    def trains_phi(self) -> bool:
        """Whether the coming iteration trains phi; the first one has no meta gradients, and trains it in no case."""
        return self.learned and (self.freeze_phi_after is None or self.iteration < self.freeze_phi_after)

    @property
    def lr(self) -> float:
        """alpha, of the first group of parameters where there are several."""
        return self.optimizee.param_groups[0]["lr"]

    @property
    def rates(self) -> Rates:
        """alpha of the iteration: one where all parameters have the same, else parameter -> its group's alpha."""
        groups, rates = self.optimizee.param_groups, self.optimizee.rates()
        of_all = sum(len(group["params"]) for group in groups) == self._parameters
        on_device = self.optimizee.device_rates is not None  # whether two of them are equal is then not known without waiting
        if of_all and (len(groups) == 1 if on_device else all(rate == self.lr for rate in rates)):
            return rates[0]
        return {p: rate for group, rate in zip(groups, rates, strict=True) for p in group["params"]}

    def use_device_rates(self) -> None:
        """Lets iterations read alpha and gamma from the device, so that an iteration that is captured once follows any schedule.

        `refresh_rates` must then be called before each iteration.
        """
        for optimizer in self._with_device_rates():
            optimizer.use_device_rates()

    def refresh_rates(self) -> None:
        """Writes changed rates to the device, where they are read there."""
        for optimizer in self._with_device_rates():
            optimizer.refresh_rates()

    def _with_device_rates(self) -> list[Optimizee]:
        """The optimizers that can read their rates from the device: phi's may be one of torch.optim, which cannot."""
        return [optimizer for optimizer in (self.optimizee, self.meta_optimizer) if isinstance(optimizer, Optimizee)]

    @property
    def meta_lr(self) -> float | None:
        """gamma, of the first group of phi where there are several; None for a fixed estimator."""
        return self.meta_optimizer.param_groups[0]["lr"] if self.learned else None

    def rates_as_numbers(self) -> tuple[float, ...]:
        """The rates that are not read from the device: a captured iteration holds them, and is of no use for others."""
        optimizers = [self.optimizee, *([self.meta_optimizer] if self.learned else [])]
        own = [optimizer for optimizer in optimizers if getattr(optimizer, "device_rates", None) is None]
        return tuple(group["lr"] for optimizer in own for group in optimizer.param_groups)

    def hyperparameters(self) -> dict[str, dict[str, Any] | list[dict[str, Any]]]:
        """`hyperparameters` of the net's optimizee and, if there is one, of M's optimizer."""
        optimizers = {"net": self.optimizee} | ({"meta_net": self.meta_optimizer} if self.learned else {})
        return {name: hyperparameters(optimizer) for name, optimizer in optimizers.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on: parameters and buffers, phi, both optimizers, M's state, each
        layer's g_W_hat and W_tilde, each parameter's refined gradient, the iteration. As of torch's modules, these are the
        tensors that training goes on with: copy.deepcopy(state) keeps them as they are.
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
        """Copies a state that `state_dict` gave, to the net's device. Raises RuntimeError for the state of another net."""
        self.net.load_state_dict(state["net"])
        self.optimizee.load_state_dict(deepcopy(state["optimizee"]))  # torch's optimizers would change these tensors
        if self.learned:
            self.meta_net.load_state_dict(state["meta_net"])
            self.meta_optimizer.load_state_dict(deepcopy(state["meta_optimizer"]))
        device = next(self.net.parameters()).device
        copies = {part: _copies(state[part], device) for part in ("gradients", "layers", "meta_hidden_state_dict")}
        self._set_gradients(copies["gradients"])
        self.net.meta.load_state_dict(copies["layers"])
        self.meta_hidden_state_dict = copies["meta_hidden_state_dict"]
        self._set_iteration(state["iteration"])

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
        """Raises NotFinite, before anything is updated, for a loss that is not finite; does not look where it would wait.

        Raises ValueError for a loss that is no scalar.
        """
        require_scalar(loss)
        if self.checks_loss and not math.isfinite(loss.detach()):
            raise NotFinite(f"{loss.item()}", first_not_finite(self.net, lambda: self.forward(inputs, meta_grad_dict)))

    def compare_with_ste(self) -> GradientComparison | None:
        """M's gradient beside STE's after the last iteration; None for a fixed estimator and before the first iteration."""
        if not self.learned or not self.iteration:
            return None
        return compare_with_ste(self.meta_net, self.net, self.quantizer, self.meta_hidden_state_dict)


def _copies(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
