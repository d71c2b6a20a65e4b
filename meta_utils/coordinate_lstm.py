"""One step of an LSTM and a linear map, Eq. (11), the same for every coordinate; its derivative costs one product."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SLICE = 512  # rows of each of the products, side by side, that a sum over a chunk's coordinates is split into


class CoordinateLSTM(torch.autograd.Function):
    """f(x) = FC(LSTM(x)) for every coordinate: x (N,), the state h and c (L, N, h), FC's weight (1, h) and bias (1,), each
    layer's weights (4h, k), gates in torch's order i, f, g, o -> (f (N,), h', c'), with a graph to FC and the weights alone.
    k = h + inputs + 1: columns for the layer's h, for its input (x, above the first layer the h' below), and for 1 (the biases).

    dtype: of the products' factors and results, such as bfloat16; everything else has x's dtype.

    f is one number per coordinate, so forward computes df/dgates (where `learn`), in place of the gates while a chunk of them is
    in the cache, and backward only scales it: one product per layer. It is stored until then, 4h numbers per coordinate and layer
    (ResNet110, h = 100: 2.6 GiB); besides h and c nothing else grows with N.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        h: Tensor,
        c: Tensor,
        learn: bool,
        chunk_size: int,
        dtype: torch.dtype,
        fc_weight: Tensor,
        fc_bias: Tensor,
        *weights: Tensor,
    ):
        new_h, new_c = torch.empty_like(h), torch.empty_like(c)
        rows, hidden = min(chunk_size, len(x)), h.shape[2]
        inputs = [x.new_ones(rows, W.shape[1], dtype=dtype) for W in weights]
        gates = [x.new_empty(len(x) if learn else rows, W.shape[0], dtype=dtype) for W in weights]
        exact = None if dtype == x.dtype else x.new_empty(rows, 4 * hidden)  # the gates of a chunk, in x's dtype
        spare = x.new_empty(2, rows, hidden)
        doubled = [_double_g(W).t().to(dtype) for W in weights]
        scales = _gate_scales(fc_weight, len(weights))
        to_below = [(scale.t() * W[:, hidden:-1]).to(dtype) for scale, W in zip(scales, weights, strict=True)]
        for start in range(0, len(x), chunk_size):
            chunk = slice(start, min(start + chunk_size, len(x)))
            in_buffer = slice(0, chunk.stop - start)
            in_gates = chunk if learn else in_buffer
            below = x[chunk, None]
            for layer, W in enumerate(doubled):
                joined = inputs[layer][in_buffer]
                joined[:, :hidden], joined[:, hidden:-1] = h[layer, chunk], below
                at = (c[layer, chunk], new_c[layer, chunk], new_h[layer, chunk])
                product = torch.mm(joined, W, out=gates[layer][in_gates])
                z = product if exact is None else exact[in_buffer].copy_(product)
                below = _cell(z, *at, *spare[:, in_buffer], learn)
                if learn and exact is not None:
                    product.copy_(z)
            for layer in reversed(range(1, len(weights) if learn else 0)):
                d_h = gates[layer][in_gates] @ to_below[layer]
                gates[layer - 1][in_gates].unflatten(1, (4, hidden)).mul_(d_h[:, None])
        if learn:
            ctx.save_for_backward(x, h, new_h, *scales, *gates)
            ctx.chunk_size = chunk_size
        ctx.mark_non_differentiable(new_h, new_c)
        ctx.set_materialize_grads(False)  # no zeros in the place of those of h' and c'
        return torch.addmv(fc_bias.expand(len(x)), new_h[-1], fc_weight[0]), new_h, new_c

    @staticmethod
    @once_differentiable
    def backward(ctx, d_f: Tensor, *_) -> tuple[Tensor | None, ...]:
        x, h, new_h, *saved = ctx.saved_tensors
        layers, hidden = len(h), h.shape[2]
        d_weights, below = [], x[:, None]
        for layer, (scale, gates) in enumerate(zip(saved[:layers], saved[layers:], strict=True)):
            inputs = gates.new_empty(min(ctx.chunk_size, len(x)), hidden + below.shape[1] + 1)
            total = x.new_zeros(max(1, len(inputs) // SLICE), inputs.shape[1], gates.shape[1])
            for start in range(0, len(x), ctx.chunk_size):
                chunk = slice(start, start + ctx.chunk_size)
                d = d_f[chunk, None]
                joined = inputs[: len(d)]
                torch.mul(h[layer, chunk], d, out=joined[:, :hidden])
                torch.mul(below[chunk], d, out=joined[:, hidden:-1])
                joined[:, -1:] = d
                _add_product(total, joined, gates[chunk])
            d_weights.append((total.sum(0) * scale).t())
            below = new_h[layer]
        return (None,) * 6 + (torch.mv(new_h[-1].t(), d_f).unsqueeze(0), d_f.sum().unsqueeze(0), *d_weights)


def _double_g(W: Tensor) -> Tensor:
    """The weights with twice the rows of gate g, so that one sigmoid serves all four gates."""
    i, f, g, o = W.chunk(4)
    return torch.cat([i, f, 2 * g, o])


def _gate_scales(fc_weight: Tensor, layers: int) -> list[Tensor]:
    """Each layer's factor (1, 4h) that `_cell` leaves out of the derivatives, since it is the same for every coordinate."""
    below, top = ([4 * d_h, 4 * d_h, 4 * d_h, d_h] for d_h in (torch.ones_like(fc_weight), fc_weight))
    return [torch.cat(parts, dim=1) for parts in [below] * (layers - 1) + [top]]


def _cell(z: Tensor, c: Tensor, new_c: Tensor, new_h: Tensor, s: Tensor, spare: Tensor, learn: bool) -> Tensor:
    """Gates z (n, 4h), that of g doubled, and c (n, h) -> c' and h' in their places; returns h'.

    c' = f c + i g, h' = o tanh c'; tanh is taken as 2 sigmoid(2 x) - 1, equal up to the rounding of 1, in half of its time.
    Where `learn`, z becomes dh'/dz, a quarter of it for i, f and g. s and spare (n, h) are overwritten.
    """
    i, f, g, o = z.sigmoid_().chunk(4, dim=1)
    torch.add(g.new_full((), -1), g, alpha=2, out=g)
    torch.mul(f, c, out=new_c).addcmul_(i, g)
    torch.mul(new_c, -2, out=s).sigmoid_()  # tanh c' = 1 - 2 s
    torch.addcmul(o, o, s, value=-2, out=new_h)
    if learn:
        sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
        d_c = sigmoid_backward(o, s, grad_input=spare)  # o s (1 - s), a quarter of dh'/dc' = o (1 - tanh(c')**2)
        torch.addcmul(new_h, new_h, o, value=-1, out=o)
        sigmoid_backward(torch.mul(d_c, c, out=s), f, grad_input=f)
        d_g = torch.mul(d_c, i, out=s)
        sigmoid_backward(d_c.mul_(g), i, grad_input=i)
        tanh_backward(d_g, g, grad_input=g)
    return new_h


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total (B, p, q) += a.T @ b, for a (n, p) and b (n, q): B products of n // B rows each, side by side, and of the rest.

    a and b may have another dtype than total, in which the products are then rounded before they are added.
    """
    slices, whole = len(total), len(a) // len(total) * len(total)
    rows = whole // slices
    side_by_side = a[:whole].unflatten(0, (slices, rows)).mT, b[:whole].unflatten(0, (slices, rows))
    if a.dtype != total.dtype:
        total += torch.bmm(*side_by_side)
        total[0] += a[whole:].t() @ b[whole:]
        return
    torch.baddbmm(total, *side_by_side, out=total)
    if whole < len(a):
        total[0].addmm_(a[whole:].t(), b[whole:])
