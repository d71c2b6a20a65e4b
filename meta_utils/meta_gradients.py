"""What M made of one iteration's gradients, for all layers: a mapping by layer name over one flat vector."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from utils.layout import FlatLayout
from utils.quantizers.discretize import require_tensor
from utils.quantizers.quantizer import Quantizer

NO_META_GRADIENTS: Mapping[str, tuple] = MappingProxyType({})  # at t = 0, in evaluation, and with a fixed estimator


class MetaGradients(Mapping[str, tuple]):
    """Layer name -> (path, g_W_tilde with the shape of W, the layer's bias gradient or None): the notebook's meta_grad_dict.

    paths: layer name -> path for get_layer. g_W_tilde: M's output for all layers, flat (N,), with a graph to phi; a layer's part
    is a view that is made when it is asked for. u: (N,), once `calibrate` has run.
    """

    def __init__(self, paths: Mapping[str, tuple], layout: FlatLayout, g_W_tilde: Tensor, bias_grads: Sequence[Tensor | None]):
        self._paths, self._layout = paths, layout
        self.g_W_tilde, self.bias_grads = g_W_tilde, bias_grads
        self.calibration: Tensor | None = None
        self._u: Tensor | None = None

    @property
    def u(self) -> Tensor:
        """calibration(W) * g_W_tilde, flat (N,). Raises RuntimeError before `calibrate`, which the forward calls."""
        if self._u is None:
            raise RuntimeError("these meta gradients are not calibrated yet: they need a forward, or calibrate(), first")
        return self._u

    @classmethod
    def of(cls, given: Mapping[str, tuple], paths: Mapping[str, tuple], layout: FlatLayout) -> "MetaGradients":
        """The given ones, flattened where they come layer by layer. Raises ValueError where a layer has none."""
        if isinstance(given, cls):
            return given
        if missing := [name for name in paths if name not in given]:
            raise ValueError(f"no meta gradient for {', '.join(missing)}")
        _, g_W_tilde, bias_grads = zip(*(given[name] for name in paths), strict=True)
        return cls(paths, layout, layout.flatten(g_W_tilde), bias_grads)

    def calibrate(self, quantizer: Quantizer, W: Tensor) -> None:
        """u = calibration(W) * g_W_tilde, Eq. (4), without a graph; computed once. W: all stored weights, flat (N,).

        Raises BadPart where the calibration is not like W.
        """
        if self._u is None:
            with torch.no_grad():  # of a quantizer with parameters
                self.calibration = quantizer.calibration(W.detach(), self._layout)
            require_tensor(f"{type(quantizer).__name__}.calibration", self.calibration, W, "W")
            self._u = self.calibration * self.g_W_tilde.detach()

    def __getitem__(self, name: str) -> tuple:
        path = self._paths[name]  # KeyError for the name of no layer
        index = list(self._paths).index(name)
        return path, self._layout.split(self.g_W_tilde)[index], self.bias_grads[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
