"""The meta networks M: g_W_tilde from g_W_hat and W_tilde, one coordinate at a time, one M for all layers.

All three share one call, `M(g_W_hat, W_tilde, state) -> (g_W_tilde, state)`: flat tensors (N,) over all layers' coordinates and
what M remembers from iteration to iteration (a dict of detached tensors, empty where it remembers nothing). The graph to phi is
kept, none to the inputs. Adding a meta network is one class and one line in META_NETWORKS.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

NONLINEARITIES: dict[str | None, type[nn.Module]] = {None: nn.Identity, "relu": nn.ReLU, "tanh": nn.Tanh}
STARTS = ("random", "identity")
CHUNKS = {"cpu": 4096, "cuda": 65536, "meta": 65536}  # coordinates at a time where each has hidden units of its own: in the cache
LSTM_STATES = ("carry", "reset")


def _require(name: str, value, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}")


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


class MetaNetwork(nn.Module):
    """What the loop asks of an M: the call above, and its scale for the log."""

    def forward(self, g_W_hat: Tensor, W_tilde: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def scale(self) -> Tensor | None:
        """The scalar c that M amounts to, where it is one, else None."""
        return None


class CoordinateFC(nn.Module):
    """A bias-free fully connected network 1-h-...-h-1 applied to every coordinate: x (N,) -> (N,).

    num_fc linear maps with the nonlinearity between them. Without one, or with ReLU, the network is positively homogeneous,
    f(x) = |x| f(sign x): it is evaluated once at 1 (and -1) and scaled, which is exact and costs O(N) instead of O(N h^2).
    init "identity": f(x) = x (for tanh: slope 1 at 0).
    """

    def __init__(self, hidden_size: int, num_fc: int, nonlinear: str | None, init: str):
        super().__init__()
        _require("nonlinear", nonlinear, NONLINEARITIES)
        _require("init", init, STARTS)
        _require_positive(hidden_size=hidden_size, num_fc=num_fc)
        self.nonlinear = nonlinear
        widths = [1, *[hidden_size] * (num_fc - 1), 1]
        self.maps = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in pairwise(widths))
        self.activation = NONLINEARITIES[nonlinear]()
        if init == "identity":
            self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        """x goes in with alternating signs, straight through, and out as the mean over the units it reaches."""
        first, *middle, last = [linear.weight for linear in self.maps] if len(self.maps) > 1 else [self.maps[0].weight, None]
        if last is None:
            first.fill_(1.0)
            return
        hidden = len(first)
        if self.nonlinear == "relu" and hidden < 2:
            raise ValueError("an identity start with relu needs hidden_size of at least 2: one unit passes one sign only")
        signs = torch.ones(hidden)
        signs[1::2] = -1
        first.copy_(signs[:, None])
        for weight in middle:
            nn.init.eye_(weight)
        reached = [(signs == s).sum() if self.nonlinear == "relu" else hidden for s in signs]
        last.copy_((signs / torch.tensor(reached))[None])

    def scale(self) -> Tensor | None:
        """The product of the matrices, which is all there is without a nonlinearity; None with one."""
        return self.slopes()[0] if self.nonlinear is None else None

    def slopes(self) -> tuple[Tensor, Tensor]:
        """(f(1), -f(-1)): what x is multiplied with on either side of zero; scalars with a graph to phi."""
        one = self.maps[0].weight.new_ones(1, 1)
        up, down = self._layer_by_layer(torch.cat([one, -one]))
        return up, -down

    def forward(self, x: Tensor) -> Tensor:
        if self.nonlinear is None:
            return self.slopes()[0] * x
        if self.nonlinear == "relu":
            up, down = self.slopes()
            return up * x.clamp(min=0) + down * x.clamp(max=0)
        return torch.cat([self._layer_by_layer(chunk) for chunk in x.unsqueeze(1).split(CHUNKS[x.device.type])])

    def _layer_by_layer(self, x: Tensor) -> Tensor:
        """x (N, 1) -> (N,), as the network is written."""
        for linear in self.maps[:-1]:
            x = self.activation(linear(x))
        return self.maps[-1](x).flatten()


class MetaFC(MetaNetwork):
    """FC-Grad: g_W_tilde = FC(g_W_hat), two bias-free linear maps 1-h-1.

    nonlinear: None, "relu" or "tanh" between them; init "identity" begins as unclipped STE, g_W_tilde = g_W_hat.
    Raises ValueError for an unknown name or a size below 1.
    """

    def __init__(self, hidden_size: int = 100, nonlinear: str | None = None, init: str = "random"):
        super().__init__()
        self.fc = CoordinateFC(hidden_size, 2, nonlinear, init)

    def forward(self, g_W_hat: Tensor, W_tilde: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        return self.fc(g_W_hat), {}

    def scale(self) -> Tensor | None:
        return self.fc.scale()


class MetaDesignedMultiFC(MetaNetwork):
    """MultiFC: g_W_tilde = g_W_hat * FC(W_tilde), num_fc bias-free linear maps 1-h-...-h-1.

    nonlinear: None, "relu" or "tanh" between them; init "identity" begins as g_W_tilde = W_tilde * g_W_hat.
    Raises ValueError for an unknown name or a size below 1.
    """

    def __init__(self, hidden_size: int = 100, num_fc: int = 3, nonlinear: str | None = None, init: str = "random"):
        super().__init__()
        self.fc = CoordinateFC(hidden_size, num_fc, nonlinear, init)

    def forward(self, g_W_hat: Tensor, W_tilde: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        return g_W_hat * self.fc(W_tilde), {}

    def scale(self) -> Tensor | None:
        return self.fc.scale()


def _tanh_from_sigmoid_(s: Tensor) -> Tensor:
    """sigmoid(2 z) -> tanh(z) = 2 sigmoid(2 z) - 1, in place, equal up to the rounding of 1; half the time of torch's tanh."""
    return torch.add(s.new_full((), -1), s, alpha=2, out=s)


class _CoordinateLSTM(torch.autograd.Function):
    """f(x) = FC(LSTM(x)) for every coordinate: x (N,), the state h and c (L, N, h), FC's weight (1, h) and bias (1,), each
    layer's weights (4h, k), gates in torch's order i, f, g, o -> (f (N,), h', c'), with a graph to FC and the weights alone.

    f is one number a coordinate, so its derivative with respect to the gates does not wait for the loss: forward takes it
    (where `learn`) while a chunk's gates lie in the cache, in place of the gates, and backward is one product per layer.
    """

    @staticmethod
    def forward(ctx, x: Tensor, h: Tensor, c: Tensor, learn: bool, chunk_size: int, fc_weight: Tensor, fc_bias: Tensor, *weights):
        new_h, new_c, factor = torch.empty_like(h), torch.empty_like(c), torch.empty_like(x)
        rows = len(x) if learn else min(chunk_size, len(x))
        inputs = [x.new_empty(rows, W.shape[1]) for W in weights]
        gates = [x.new_empty(rows, W.shape[0]) for W in weights]
        doubled = [_double_g(W).t() for W in weights]
        for start in range(0, len(x), chunk_size):
            chunk = slice(start, min(start + chunk_size, len(x)))
            place = chunk if learn else slice(0, chunk.stop - start)
            below, tanh_c = x[chunk].unsqueeze(1), []
            for layer, W in enumerate(doubled):
                row = torch.cat([h[layer, chunk], below, torch.ones_like(below[:, :1])], dim=1, out=inputs[layer][place])
                i, f, g, o = torch.mm(row, W, out=gates[layer][place]).sigmoid_().chunk(4, dim=1)
                _tanh_from_sigmoid_(g)
                new = torch.mul(f, c[layer, chunk], out=new_c[layer, chunk]).addcmul_(i, g)
                tanh_c.append(_tanh_from_sigmoid_((2 * new).sigmoid_()))
                below = torch.mul(o, tanh_c[layer], out=new_h[layer, chunk])
            torch.addmv(fc_bias, below, fc_weight[0], out=factor[chunk])
            d_h = fc_weight
            for layer in reversed(range(len(weights) if learn else 0)):
                d_gates = _derive_gates(gates[layer][place], c[layer, chunk], tanh_c[layer], d_h)
                if layer:
                    d_h = d_gates @ weights[layer][:, h.shape[2] : -1]
        if learn:
            ctx.save_for_backward(new_h[-1], *inputs, *gates)
            ctx.chunk_size = chunk_size
        ctx.mark_non_differentiable(new_h, new_c)
        ctx.set_materialize_grads(False)  # no zeros in the place of those of h' and c'
        return factor, new_h, new_c

    @staticmethod
    def backward(ctx, d_f: Tensor, *_) -> tuple[Tensor | None, ...]:
        top, *saved = ctx.saved_tensors
        layers = len(saved) // 2
        d_weights = []
        for inputs, d_gates in zip(saved[:layers], saved[layers:], strict=True):
            total = inputs.new_zeros(inputs.shape[1], d_gates.shape[1])
            for start in range(0, len(d_f), ctx.chunk_size):
                chunk = slice(start, start + ctx.chunk_size)
                torch.addmm(total, (inputs[chunk] * d_f[chunk, None]).t(), d_gates[chunk], out=total)
            d_weights.append(total.t())
        return (None,) * 5 + ((d_f @ top).unsqueeze(0), d_f.sum().unsqueeze(0), *d_weights)


def _double_g(W: Tensor) -> Tensor:
    """The weights with twice the rows of gate g, so that one sigmoid serves all four gates."""
    i, f, g, o = W.chunk(4)
    return torch.cat([i, f, 2 * g, o])


def _derive_gates(gates: Tensor, c: Tensor, tanh_c: Tensor, d_h: Tensor) -> Tensor:
    """Gates (n, 4h), after their nonlinearity -> derivatives before it, in place, from that of h' ((1, h) or (n, h))."""
    i, f, g, o = gates.chunk(4, dim=1)
    sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
    d_c = o * d_h
    tanh_backward(d_c, tanh_c, grad_input=d_c)
    sigmoid_backward(tanh_c.mul_(d_h), o, grad_input=o)
    sigmoid_backward(torch.mul(d_c, c, out=tanh_c), f, grad_input=f)
    d_g = torch.mul(d_c, i, out=tanh_c)
    sigmoid_backward(d_c.mul_(g), i, grad_input=i)
    tanh_backward(d_g, g, grad_input=g)
    return gates


class MetaLSTMFC(MetaNetwork):
    """LSTMFC: g_W_tilde = g_W_hat * FC(LSTM(W_tilde)), an LSTM of input size 1 and a linear map with bias.

    Every coordinate keeps its own (h, c), each (num_lstm, N, hidden_size); lstm_state "carry" hands them on detached, "reset"
    forgets them each time. init "identity" begins as unclipped STE (the linear map is 0 x + 1).
    Coordinates go through in chunks, so that what is at work stays in the cache; for a step with a gradient a coordinate takes
    20 hidden_size bytes in float32 and layer, the carried state 8 hidden_size.
    Raises ValueError for an unknown name or a size below 1.
    """

    chunk_size: int | None = None  # coordinates; None: what suits the device

    def __init__(self, hidden_size: int = 100, num_lstm: int = 1, lstm_state: str = "carry", init: str = "random"):
        super().__init__()
        _require("lstm_state", lstm_state, LSTM_STATES)
        _require("init", init, STARTS)
        _require_positive(hidden_size=hidden_size, num_lstm=num_lstm)
        self.lstm_state = lstm_state
        self.lstm = nn.LSTM(1, hidden_size, num_lstm)  # holds the parameters; forward() computes a step for all layers
        self.fc = nn.Linear(hidden_size, 1)
        if init == "identity":
            nn.init.zeros_(self.fc.weight)
            nn.init.ones_(self.fc.bias)

    def forward(self, g_W_hat: Tensor, W_tilde: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        state = state or self._zero_state(W_tilde)
        weights = [self._weights(layer) for layer in range(self.lstm.num_layers)]
        chunk_size = self.chunk_size or CHUNKS[W_tilde.device.type]
        factor, h, c = _CoordinateLSTM.apply(
            W_tilde, state["h"], state["c"], torch.is_grad_enabled(), chunk_size, self.fc.weight, self.fc.bias, *weights
        )
        return g_W_hat * factor, {"h": h, "c": c} if self.lstm_state == "carry" else {}

    def _weights(self, layer: int) -> Tensor:
        """(4h, h + input + 1): what multiplies the layer's h, its input and 1."""
        names = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
        W_hh, W_ih, b_ih, b_hh = (getattr(self.lstm, f"{name}_l{layer}") for name in names)
        return torch.cat([W_hh, W_ih, (b_ih + b_hh).unsqueeze(1)], dim=1)

    def _zero_state(self, W_tilde: Tensor) -> dict[str, Tensor]:
        shape = (self.lstm.num_layers, len(W_tilde), self.lstm.hidden_size)
        return {name: W_tilde.new_zeros(shape) for name in ("h", "c")}


META_NETWORKS: dict[str, type[MetaNetwork]] = {"FC-Grad": MetaFC, "MultiFC": MetaDesignedMultiFC, "LSTMFC": MetaLSTMFC}
