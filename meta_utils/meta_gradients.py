"""What M made of one iteration's gradients, for all layers: a mapping by layer name over one flat vector."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from torch import Tensor

from utils.quantize import Quantizer

if TYPE_CHECKING:
    from meta_utils.meta_quantized_module import MetaLayers

NO_META_GRADIENTS: Mapping[str, tuple] = MappingProxyType({})  # at t = 0, in evaluation, and with a fixed estimator


class MetaGradients(Mapping[str, tuple]):
    """Layer name -> (path, g_W_tilde with the shape of W, the layer's bias gradient or None): the notebook's meta_grad_dict.

    g_W_tilde: M's output for all layers, flat (N,), with a graph to phi; a layer's part is a view that is made when it is asked
    for. u, calibration: (N,) once `calibrate` has run, else None.
    """

    def __init__(self, layers: "MetaLayers", g_W_tilde: Tensor, bias_grads: list[Tensor | None]):
        self._layers = layers
        self.g_W_tilde, self.bias_grads = g_W_tilde, bias_grads
        self.calibration: Tensor | None = None
        self.u: Tensor | None = None

    @classmethod
    def of(cls, layers: "MetaLayers", given: Mapping[str, tuple]) -> "MetaGradients":
        """The given ones, flattened where they come one by one. Raises ValueError where a layer has none."""
        if isinstance(given, cls):
            return given
        missing = [layer.name for layer in layers.layers if layer.name not in given]
        if missing:
            raise ValueError(f"no meta gradient for {', '.join(missing)}")
        entries = [given[layer.name] for layer in layers.layers]
        return cls(layers, layers.layout.flatten(g for _, g, _ in entries), [bias_grad for _, _, bias_grad in entries])

    def calibrate(self, quantizer: Quantizer, W: Tensor) -> Tensor:
        """u = calibration(W) * g_W_tilde, Eq. (4), with a graph to phi; computed once. W: all stored weights, flat (N,)."""
        if self.u is None:
            self.calibration = quantizer.calibration(W.detach(), self._layers.layout)
            self.u = self.calibration * self.g_W_tilde
        return self.u

    def __getitem__(self, name: str) -> tuple:
        index = self._layers.index_of(name)
        return tuple(name.split(".")), self._layers.layout.split(self.g_W_tilde)[index], self.bias_grads[index]

    def __iter__(self) -> Iterator[str]:
        return (layer.name for layer in self._layers.layers)

    def __len__(self) -> int:
        return len(self._layers.layers)
