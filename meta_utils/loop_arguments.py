"""What TrainingLoop is made of, checked before it begins: mistakes are named here, not by a traceback in the first iteration."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from meta_utils.install import require_metaquantized
from meta_utils.meta_network import MetaNetwork
from meta_utils.optimizee import Optimizee
from utils.choices import UPDATE_ORDERS
from utils.quantizers.discretize import Estimator
from utils.quantizers.quantizer import Quantizer


def check_parts(net: nn.Module, optimizee: Optimizee, quantizer: Quantizer | None, quantized_forward: bool) -> None:
    """Raises ValueError for a net that is not metaquantized, an optimizer of torch's, an optimizee of other parameters than the
    net's, the class or name of a quantizer, and for a quantizer with parameters that is not installed in the net, or whose
    parameters the optimizee lacks or no forward would train.
    """
    require_metaquantized(net)
    if not isinstance(optimizee, Optimizee):
        name = f"{type(optimizee).__module__}.{type(optimizee).__name__}"
        raise ValueError(f"{name} does not give its refined gradient: take an optimizee, such as meta_utils.SGD.SGD")
    _require_own(optimizee, net.parameters())
    if isinstance(quantizer, (type, str)):
        made = f"{quantizer.__name__}()" if isinstance(quantizer, type) else f"utils.quantize.get_quantizer({quantizer!r})"
        raise ValueError(f"the quantizer {quantizer!r} is not one yet: {made} makes it")
    if not isinstance(quantizer, nn.Module):
        return
    if quantizer is not net.meta.quantizer:
        raise ValueError(f"{quantizer} has parameters: install_quantizer(net, quantizer) makes them the net's")
    if not quantized_forward:
        raise ValueError(f"training without a quantized forward would not train the parameters of {quantizer}")
    trained = {id(p) for group in optimizee.param_groups for p in group["params"]}
    if left := [name for name, p in quantizer.named_parameters() if p.requires_grad and id(p) not in trained]:
        order = "install_quantizer(net, quantizer) comes before the optimizee is made"
        raise ValueError(f"no optimizee trains {left[0]} of {quantizer}: {order}")


def check_gradient(
    quantizer: Quantizer | None,
    meta_net: nn.Module | None,
    meta_optimizer: Optimizer | None,
    estimator: Estimator | None,
    iterations: int | None,
    quantized_forward: bool,
    freeze_phi_after: int | None,
) -> None:
    """Raises ValueError for what does not go together: M with its optimizer and a quantizer that calibrates, or an estimator."""
    if isinstance(meta_net, Estimator):
        raise ValueError(f"{type(meta_net).__name__} is a fixed estimator: estimator={type(meta_net).__name__}()")
    if meta_net is not None and not isinstance(getattr(meta_net, "_orig_mod", meta_net), MetaNetwork):  # of torch.compile(M)
        raise ValueError(f"{type(meta_net).__name__} is not a MetaNetwork: derive it from meta_utils.meta_network.MetaNetwork")
    if (meta_net is None) != (meta_optimizer is None):
        raise ValueError("a learned gradient takes a meta network and its optimizer, a fixed estimator neither")
    if meta_net is None:
        _check_fixed(estimator, iterations, freeze_phi_after)
        return
    if quantizer is None or not quantized_forward:
        raise ValueError("a learned gradient needs a quantizer")
    if not hasattr(quantizer, "calibration"):
        raise ValueError(f"a learned gradient needs the calibration of the quantizer, Eq. (4), and {quantizer} has none")
    if not _is_of(meta_optimizer, meta_net.parameters()):
        raise ValueError("the meta optimizer trains other parameters than those of the meta network")
    if estimator is not None:
        raise ValueError("a learned gradient cannot be combined with a fixed estimator")


def _check_fixed(estimator: Estimator | None, iterations: int | None, freeze_phi_after: int | None) -> None:
    """Raises ValueError for what is no estimator, one that needs the number of iterations, and a phi to freeze: there is none."""
    if freeze_phi_after is not None:
        raise ValueError("without a learned gradient there is no phi to freeze")
    if isinstance(estimator, type):
        raise ValueError(f"the estimator {estimator.__name__} is a class: {estimator.__name__}() makes one of it")
    if estimator is not None and not isinstance(estimator, Estimator):
        raise ValueError(f"{estimator!r} is not an Estimator: derive it from utils.quantizers.discretize.Estimator")
    if estimator is not None and estimator.scheduled and iterations is None:
        raise ValueError(f"{type(estimator).__name__} depends on progress: say how many iterations there will be")


def _require_own(optimizee: Optimizee, parameters: Iterable[Tensor]) -> None:
    if not _is_of(optimizee, parameters):
        advice = "it is made from net.parameters(), once the net will not be copied or given other parameters any more"
        raise ValueError(f"the optimizee has parameters that are not the net's: {advice}")


def _is_of(optimizer: Optimizer, parameters: Iterable[Tensor]) -> bool:
    """Whether all of an optimizer's parameters are among a net's."""
    own = {id(p) for p in parameters}
    return all(id(p) in own for group in optimizer.param_groups for p in group["params"])


def check_calls(after_step: Iterable[Any]) -> tuple[Callable, ...]:
    """The calls as a tuple. Raises ValueError where they are not several calls, such as [shrink]."""
    calls = tuple(after_step) if isinstance(after_step, Iterable) else None
    if calls is None or not all(map(callable, calls)):
        raise ValueError(f"after_step must be a list of functions of the loop, not {after_step!r}")
    return calls


def check_iteration(net: nn.Module, parameters: Sequence[Tensor], optimizee: Optimizee, learned: bool) -> None:
    """What may have changed since the loop was made; parameters: the net's. Raises ValueError for an optimizee of others, and for
    a learned gradient of frozen weights, or in eval mode, in which the layers do not show the g_W_hat that M needs.
    """
    _require_own(optimizee, parameters)
    check_weights(net, learned)
    if learned and not net.training:
        raise ValueError("a learned gradient needs the net in train mode: call net.train(), then eval() of parts to be frozen")


def check_weights(net: nn.Module, learned: bool) -> None:
    """Raises ValueError where a learned gradient would meet a quantized weight that is not to be trained."""
    if learned and (frozen := [layer.name for layer in net.meta.layers if not layer.weight.requires_grad]):
        advice = "metaquantize(net, keep=[...]) leaves it out of a learned gradient"
        raise ValueError(f"{frozen[0]} does not require a gradient: {advice}")


def check_numbers(update_order: str, clip: float | None, iterations: int | None, freeze_phi_after: int | None) -> None:
    """Raises ValueError for an unknown order, a clip that is not positive, or a number of iterations that is not whole."""
    for name, number, least in (("iterations", iterations, 1), ("freeze_phi_after", freeze_phi_after, 0)):
        if number is not None and (type(number) is not int or number < least):
            raise ValueError(f"{name} must be a whole number of at least {least}, not {number!r}")
    if update_order not in UPDATE_ORDERS:
        raise ValueError(f"update_order must be one of {', '.join(UPDATE_ORDERS)}, not {update_order!r}")
    if clip is not None and (isinstance(clip, bool) or not clip > 0):
        raise ValueError(f"clip must be above 0, not {clip}")
