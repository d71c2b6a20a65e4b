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
CHUNK = 4096  # coordinates at a time where every one has hidden units of its own: what is at work stays in the cache
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
        raise TypeError(f"{type(self).__name__} does not define forward()")

    def scale(self) -> Tensor | None:
        """The scalar c that M amounts to, where it is one: without a nonlinearity an FC network is a product of matrices."""
        fc = getattr(self, "fc", None)
        return fc.slopes()[0] if isinstance(fc, CoordinateFC) and fc.nonlinear is None else None


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
        return torch.cat([self._layer_by_layer(chunk) for chunk in x.unsqueeze(1).split(CHUNK)])

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


class _LSTMStep(torch.autograd.Function):
    """One LSTM layer, one time step: (inputs (n, k), c (n, h), weights (4h, k)) -> (h', c'); gates in torch's order i, f, g, o.

    The old state is constant and c' is not differentiated through, so the backward pass needs neither of their gradients.
    """

    @staticmethod
    def forward(ctx, inputs: Tensor, c: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        gates = inputs @ weights.t()
        i, f, g, o = gates.chunk(4, dim=1)
        for gate in (i, f, o):
            gate.sigmoid_()
        g.tanh_()
        new_c = (f * c).addcmul_(i, g)
        tanh_c = new_c.tanh()
        ctx.save_for_backward(inputs, c, weights, gates, tanh_c)
        ctx.mark_non_differentiable(new_c)
        return o * tanh_c, new_c

    @staticmethod
    def backward(ctx, d_h: Tensor, _: Tensor | None) -> tuple[Tensor | None, None, Tensor]:
        inputs, c, weights, gates, tanh_c = ctx.saved_tensors
        i, f, g, o = gates.chunk(4, dim=1)
        d_c = torch.ops.aten.tanh_backward(d_h * o, tanh_c)
        d_gates = torch.empty_like(gates)
        d_i, d_f, d_g, d_o = d_gates.chunk(4, dim=1)
        for d_gate, gradient, gate in ((d_i, d_c * g, i), (d_f, d_c * c, f), (d_o, d_h * tanh_c, o)):
            torch.ops.aten.sigmoid_backward.grad_input(gradient, gate, grad_input=d_gate)
        torch.ops.aten.tanh_backward.grad_input(d_c * i, g, grad_input=d_g)
        return d_gates @ weights if ctx.needs_input_grad[0] else None, None, d_gates.t() @ inputs


class MetaLSTMFC(MetaNetwork):
    """LSTMFC: g_W_tilde = g_W_hat * FC(LSTM(W_tilde)), an LSTM of input size 1 and a linear map with bias.

    Every coordinate keeps its own (h, c), each (num_lstm, N, hidden_size); lstm_state "carry" hands them on detached, "reset"
    forgets them each time. init "identity" begins as unclipped STE (the linear map is 0 x + 1).
    Coordinates go through in chunks of `chunk_size`, so that what is at work stays in the cache and memory is bounded: a
    chunk's gates take 16 hidden_size bytes a coordinate in float32, the carried state 8 hidden_size.
    Raises ValueError for an unknown name or a size below 1.
    """

    chunk_size = CHUNK

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
        carried = {} if self.lstm_state == "reset" else {name: torch.empty_like(old) for name, old in state.items()}
        weights = [self._weights(layer) for layer in range(self.lstm.num_layers)]
        factors = []
        for start in range(0, len(W_tilde), self.chunk_size):
            chunk = slice(start, start + self.chunk_size)
            x = W_tilde[chunk].unsqueeze(1)
            for layer, layer_weights in enumerate(weights):
                inputs = torch.cat([state["h"][layer, chunk], x, torch.ones_like(x[:, :1])], dim=1)
                x, c = _LSTMStep.apply(inputs, state["c"][layer, chunk], layer_weights)
                if carried:
                    carried["h"][layer, chunk], carried["c"][layer, chunk] = x.detach(), c
            factors.append(self.fc(x).flatten())
        return g_W_hat * torch.cat(factors), carried

    def _weights(self, layer: int) -> Tensor:
        """(4h, h + input + 1): what multiplies the layer's h, its input and 1."""
        names = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
        W_hh, W_ih, b_ih, b_hh = (getattr(self.lstm, f"{name}_l{layer}") for name in names)
        return torch.cat([W_hh, W_ih, (b_ih + b_hh).unsqueeze(1)], dim=1)

    def _zero_state(self, W_tilde: Tensor) -> dict[str, Tensor]:
        shape = (self.lstm.num_layers, len(W_tilde), self.lstm.hidden_size)
        return {name: W_tilde.new_zeros(shape) for name in ("h", "c")}


META_NETWORKS: dict[str, type[MetaNetwork]] = {"FC-Grad": MetaFC, "MultiFC": MetaDesignedMultiFC, "LSTMFC": MetaLSTMFC}
