"""How the numbers that a quantizer sees are divided into weights: one tensor by itself, or all layers' as one flat vector.

A quantizer asks its layout for a statistic per weight and gets it back in a shape that broadcasts to the numbers, so that one
line of a quantizer serves a single tensor, and a whole net in one operation.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


class OneTensor:
    """A weight by itself: conv (C_out, C_in, k, k), linear (C_out, C_in), or any shape."""

    def abs_max(self, x: Tensor) -> Tensor:
        """The largest |x|: a scalar."""
        return x.abs().amax()

    def abs_mean(self, x: Tensor) -> Tensor:
        """The mean of |x|: a scalar."""
        return x.abs().mean()

    def abs_mean_per_filter(self, x: Tensor) -> Tensor:
        """The mean of |x| for each output filter of a convolution, (C_out, 1, 1, 1); for the whole tensor elsewhere."""
        return x.abs().mean(dim=(1, 2, 3), keepdim=True) if x.dim() == 4 else self.abs_mean(x)

    def convolutions_from(self, x: Tensor, others: Tensor) -> Tensor:
        """x for the weight of a convolution, `others` elsewhere."""
        return x if x.dim() == 4 else others


ONE_TENSOR = OneTensor()


class FlatLayout:
    """Several weights, one behind the other, as one vector (N,), each in its own order in memory (filter by filter)."""

    def __init__(self, weights: Iterable[Tensor]):
        weights = list(weights)
        self.sizes = [W.numel() for W in weights]
        self.shapes = [W.shape for W in weights]
        self.channels_last = [
            W.dim() == 4 and W.is_contiguous(memory_format=torch.channels_last) and not W.is_contiguous() for W in weights
        ]
        device = weights[0].device
        sizes = torch.tensor(self.sizes, device=device)
        filters = [len(W) if W.dim() == 4 else 1 for W in weights]
        self._filter_sizes = torch.tensor(
            [size // count for size, count in zip(self.sizes, filters, strict=True) for _ in range(count)], device=device
        )
        self._weight_of = torch.repeat_interleave(sizes, output_size=sum(self.sizes))
        self._filter_of = torch.repeat_interleave(self._filter_sizes, output_size=sum(self.sizes))
        self._sizes = sizes
        is_convolution = torch.tensor([W.dim() == 4 for W in weights], device=device)
        self._in_convolution = is_convolution.index_select(0, self._weight_of)

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors of the weights' shapes as one vector (N,); keeps the graph."""
        pieces = [
            (tensor.permute(0, 2, 3, 1) if last else tensor).reshape(-1)
            for tensor, last in zip(tensors, self.channels_last, strict=True)
        ]
        return torch.cat(pieces)

    def split(self, flat: Tensor) -> list[Tensor]:
        """The views of a vector (N,) that have the weights' shapes and order in memory; keeps the graph."""
        pieces = []
        for piece, shape, last in zip(flat.split(self.sizes), self.shapes, self.channels_last, strict=True):
            if last:
                out, channels, height, width = shape
                pieces.append(piece.view(out, height, width, channels).permute(0, 3, 1, 2))
            else:
                pieces.append(piece.view(shape))
        return pieces

    def _norms(self, x: Tensor, order: float) -> Tensor:
        return torch.stack(torch._foreach_norm(x.split(self.sizes), order))

    def abs_max(self, x: Tensor) -> Tensor:
        """The largest |x| of each weight, at each of its coordinates (N,)."""
        return self._norms(x, float("inf")).index_select(0, self._weight_of)

    def abs_mean(self, x: Tensor) -> Tensor:
        """The mean of |x| of each weight, at each of its coordinates (N,)."""
        return (self._norms(x, 1) / self._sizes).index_select(0, self._weight_of)

    def abs_mean_per_filter(self, x: Tensor) -> Tensor:
        """The mean of |x| of each output filter (of a whole linear weight), at each of its coordinates (N,)."""
        return torch.segment_reduce(x.abs(), "mean", lengths=self._filter_sizes, unsafe=True).index_select(0, self._filter_of)

    def convolutions_from(self, x: Tensor, others: Tensor) -> Tensor:
        """The coordinates of convolutions from x, those of all other weights from `others` (N,)."""
        return torch.where(self._in_convolution, x, others)


Layout = OneTensor | FlatLayout
