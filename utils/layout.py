"""How the numbers that a quantizer sees are divided into weights: one tensor by itself, or all layers' as one flat vector.

A quantizer asks its layout for a statistic per weight and gets it back in a shape that broadcasts to the numbers, so that one
line of a quantizer serves a single tensor, and a whole net in one operation.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Filters(NamedTuple):
    """The axis of a convolution's output channels in its weight: the first; transposed: the second, group by group."""

    transposed: bool = False
    groups: int = 1


def nonzero(scale: Tensor) -> Tensor:
    """A scale to divide by: 1 where it is zero to working precision."""
    return scale.masked_fill(scale < torch.finfo(scale.dtype).tiny, 1.0)


def _abs_max(x: Tensor) -> Tensor:
    """The largest |x|, a scalar, in one pass; on the CPU a tenth of the infinity norm's time."""
    low, high = torch.aminmax(x)
    return torch.maximum(high, -low)


def usual_filters(weight: Tensor) -> Filters | None:
    """Those of a weight whose layer is not known: a convolution's from three dimensions on, else None (a linear map)."""
    return Filters() if weight.dim() > 2 else None


class OneTensor:
    """A weight by itself: conv (C_out, C_in, ...), linear (C_out, C_in), or any shape."""

    def largest(self, x: Tensor) -> Tensor:
        """The largest |x|, a scalar."""
        return _abs_max(x)

    def abs_max(self, x: Tensor) -> Tensor:
        """The largest |x|, a scalar; 1 where it is zero to working precision."""
        return nonzero(_abs_max(x))

    def abs_mean(self, x: Tensor) -> Tensor:
        """The mean of |x|: a scalar."""
        return x.abs().mean()

    def abs_mean_per_filter(self, x: Tensor) -> Tensor:
        """The mean of |x| for each output filter of a convolution, (C_out, 1, ...); for the whole tensor elsewhere."""
        return x.abs().mean(dim=tuple(range(1, x.dim())), keepdim=True) if usual_filters(x) else self.abs_mean(x)

    def convolutions_from(self, x: Tensor, others: Tensor) -> Tensor:
        """x for the weight of a convolution, `others` elsewhere."""
        return x if usual_filters(x) else others

    def deviation(self, x: Tensor) -> Tensor:
        """The standard deviation of x (divided by n), a scalar; 1 where it is zero to working precision."""
        return nonzero(x.std(correction=0))

    def spread(self, values: Tensor) -> Tensor:
        """A number for the weight, (1,) or a scalar, as a scalar; keeps the graph."""
        return values.reshape(())

    def numel(self, x: Tensor) -> Tensor:
        """The number of coordinates, a scalar, in x's dtype."""
        return x.new_full((), x.numel())

    def parts(self, x: Tensor) -> list[Tensor]:
        """The coordinates of each weight."""
        return [x]


ONE_TENSOR = OneTensor()


class FlatLayout:
    """Several weights, one behind the other, as one vector (N,), each in its own order in memory, and filter by filter.

    filters: for each weight where its output channels are, None for a linear map; not given: by its dimensions.
    """

    def __init__(self, weights: Iterable[Tensor], filters: Sequence[Filters | None] | None = None):
        weights = list(weights)
        self.filters = [usual_filters(W) for W in weights] if filters is None else list(filters)
        self.sizes = [W.numel() for W in weights]
        self.shapes = [W.shape for W in weights]
        self.channels_last = [
            W.dim() == 4 and W.is_contiguous(memory_format=torch.channels_last) and not W.is_contiguous() for W in weights
        ]
        device = weights[0].device
        sizes = torch.tensor(self.sizes, device=device)
        self._filter_counts = [_channels(shape, where) for shape, where in zip(self.shapes, self.filters, strict=True)]
        counted = zip(self.sizes, self._filter_counts, strict=True)
        self._filter_sizes = torch.tensor([size // count for size, count in counted for _ in range(count)], device=device)
        self._weight_of = torch.repeat_interleave(sizes, output_size=sum(self.sizes))
        self._filter_of = torch.repeat_interleave(self._filter_sizes, output_size=sum(self.sizes))
        self._sizes = sizes
        is_convolution = torch.tensor([where is not None for where in self.filters], device=device)
        self._in_convolution = is_convolution.index_select(0, self._weight_of)

    def flatten(self, tensors: Iterable[Tensor]) -> Tensor:
        """Tensors of the weights' shapes as one vector (N,); keeps the graph."""
        pieces = [
            self._in_order(tensor, last, where).reshape(-1)
            for tensor, last, where in zip(tensors, self.channels_last, self.filters, strict=True)
        ]
        return torch.cat(pieces)

    @staticmethod
    def _in_order(tensor: Tensor, channels_last: bool, where: Filters | None) -> Tensor:
        """A view of a weight with its filters one behind the other."""
        if where and where.transposed:
            return tensor.unflatten(0, (where.groups, -1)).transpose(1, 2)
        return tensor.permute(0, 2, 3, 1) if channels_last else tensor

    def split(self, flat: Tensor) -> list[Tensor]:
        """A vector (N,) as tensors of the weights' shapes; keeps the graph.

        They are views in the weights' order in memory, but copies for transposed convolutions of several groups.
        """
        pieces = []
        for piece, shape, last, where in zip(flat.split(self.sizes), self.shapes, self.channels_last, self.filters, strict=True):
            if where and where.transposed:
                inputs, outputs, *kernel = shape
                by_filter = piece.view(where.groups, outputs, inputs // where.groups, *kernel)
                pieces.append(by_filter.transpose(1, 2).reshape(shape))
            elif last:
                out, channels, height, width = shape
                pieces.append(piece.view(out, height, width, channels).permute(0, 3, 1, 2))
            else:
                pieces.append(piece.view(shape))
        return pieces

    def _norms(self, x: Tensor, order: float) -> Tensor:
        return torch.stack(torch._foreach_norm(self.parts(x), order))

    def largest(self, x: Tensor) -> Tensor:
        """The largest |x| of each weight, (count,)."""
        return self._norms(x, float("inf")) if x.is_cuda else torch.stack([_abs_max(part) for part in self.parts(x)])

    def abs_max(self, x: Tensor) -> Tensor:
        """The largest |x| of each weight, 1 where it is zero to working precision, at each of its coordinates (N,)."""
        return self.spread(nonzero(self.largest(x)))

    def abs_mean(self, x: Tensor) -> Tensor:
        """The mean of |x| of each weight, at each of its coordinates (N,)."""
        if x.is_cuda:
            return self.spread(self._norms(x, 1) / self._sizes)
        return self.spread(torch.stack([part.abs().mean() for part in self.parts(x)]))  # the CPU's 1-norm adds up one by one

    def abs_mean_per_filter(self, x: Tensor) -> Tensor:
        """The mean of |x| of each output filter (of a whole linear weight), at each of its coordinates (N,)."""
        x = x.abs()
        if x.is_cuda:
            means = torch.segment_reduce(x, "mean", lengths=self._filter_sizes, unsafe=True)
        else:  # the CPU's segment_reduce adds up one by one
            pieces = zip(self.parts(x), self._filter_counts, strict=True)
            means = torch.cat([part.view(count, -1).mean(dim=1) for part, count in pieces])
        return means.index_select(0, self._filter_of)

    def convolutions_from(self, x: Tensor, others: Tensor) -> Tensor:
        """The coordinates of convolutions from x, those of all other weights from `others` (N,)."""
        return torch.where(self._in_convolution, x, others)

    def deviation(self, x: Tensor) -> Tensor:
        """The standard deviation of x (divided by n) in each weight, 1 where it is zero, at each of its coordinates (N,)."""
        return self.spread(nonzero(torch.stack([part.std(correction=0) for part in self.parts(x)])))

    def spread(self, values: Tensor) -> Tensor:
        """A number for each weight, (count,), at each of its coordinates (N,); keeps the graph."""
        if values.is_cuda and not values.requires_grad:
            return values.index_select(0, self._weight_of)
        pieces = zip(values.unbind(), self.sizes, strict=True)
        return torch.cat([value.expand(size) for value, size in pieces])  # the gradient is a sum for each weight

    def numel(self, x: Tensor) -> Tensor:
        """The number of coordinates of each weight, (count,), in x's dtype."""
        return self._sizes.to(x.dtype)

    def parts(self, x: Tensor) -> list[Tensor]:
        """The coordinates of each weight: views of x (N,)."""
        return list(x.split(self.sizes))


def _channels(shape: Sequence[int], where: Filters | None) -> int:
    """The number of filters of a weight; 1 for a linear map."""
    if where is None:
        return 1
    return where.groups * shape[1] if where.transposed else shape[0]


Layout = OneTensor | FlatLayout
