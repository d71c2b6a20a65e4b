"""The meta networks M, Eqs. (3) and (9) - (11): g_W_tilde from g_W_hat and W_tilde, one M for the coordinates of all layers.

All three share one call, `M(g_W_hat, W_tilde, state) -> (g_W_tilde, state)`: flat tensors (N,) over all layers' coordinates and
what M remembers from iteration to iteration (a dict of detached tensors, empty where it remembers nothing). The graph to phi is
kept, none to the inputs. Adding a meta network is one class here and one line in utils/choices.py.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from meta_utils.coordinate_lstm import CoordinateLSTM
from utils.choices import LSTM_STATES, META_NETWORKS, STARTS

CHUNKS = {"cpu": 4096, "cuda": 65536, "meta": 65536}  # coordinates per chunk; on the CPU one fits into the cache


class TanhInPlace(nn.Module):
    """tanh of what nothing else needs, which saves the memory of another tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x.tanh_()


ACTIVATIONS: dict[str | None, type[nn.Module]] = {None: nn.Identity, "relu": nn.ReLU, "tanh": TanhInPlace}


def _require(name: str, value, allowed) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value!r}")


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


class MetaNetwork(nn.Module):
    """The interface of an M: the call above, and its gain for the log.

    product_dtype: in which an M with products large enough to matter, LSTMFC, multiplies; None: in its inputs' dtype.
    """

    product_dtype: torch.dtype | None = None

    def forward(self, g_W_hat: Tensor, W_tilde: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        """g_W_tilde (N,), with a graph to phi, and the state for the next call (detached tensors by name); Eq. (3).

        g_W_hat, W_tilde: (N,), all layers' coordinates, without a graph. state: what the last call returned; None or {}: none.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward()")

    def state_shapes(self, coordinates: int) -> dict[str, tuple[int, ...]] | None:
        """Name -> shape of M's state for N coordinates, once there is one; None: unknown, a checkpoint's state is not checked."""
        return None

    def gain(self) -> Tensor | None:
        """The scalar s where M is multiplication by one, else None."""
        return None


class CoordinateFC(nn.Module):
    """A bias-free fully connected network 1-h-...-h-1 applied to every coordinate: x (N,) -> (N,).

    num_layers linear maps with the nonlinearity between them. Without one, or with ReLU, the network is positively homogeneous,
    f(x) = |x| f(sign x): it is evaluated once at 1 (and -1) and scaled, which is exact and costs O(N) instead of O(N h^2).
    init "identity": f(x) = x (for tanh: slope 1 at 0).
    """

    def __init__(self, hidden_size: int, num_layers: int, use_nonlinear: str | None, init: str):
        super().__init__()
        _require("use_nonlinear", use_nonlinear, ACTIVATIONS)
        _require("init", init, STARTS)
        _require_positive(hidden_size=hidden_size, num_layers=num_layers)
        self.use_nonlinear = use_nonlinear
        widths = [1, *[hidden_size] * (num_layers - 1), 1]
        self.maps = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in pairwise(widths))
        self.activation = ACTIVATIONS[use_nonlinear]()
        if init == "identity":
            self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        """x goes in with alternating signs, straight through, and out as the mean over the units it reaches."""
        if len(self.maps) == 1:
            self.maps[0].weight.fill_(1.0)
            return
        first, *middle, last = (linear.weight for linear in self.maps)
        hidden = len(first)
        if self.use_nonlinear == "relu" and hidden < 2:
            raise ValueError("an identity start with relu needs hidden_size of at least 2: one unit passes one sign only")
        signs = torch.ones(hidden)
        signs[1::2] = -1
        first.copy_(signs[:, None])
        for weight in middle:
            nn.init.eye_(weight)
        reached = [(signs == s).sum() if self.use_nonlinear == "relu" else hidden for s in signs]
        last.copy_((signs / torch.tensor(reached))[None])

    def gain(self) -> Tensor | None:
        """f(1), the product of the matrices, all there is without a nonlinearity (None with one); keeps the graph to phi."""
        return None if self.use_nonlinear else self._layer_by_layer(self._one())[0]

    def forward(self, x: Tensor) -> Tensor:
        if self.use_nonlinear is None:
            return self.gain() * x
        if self.use_nonlinear == "relu":
            up, down = self._layer_by_layer(torch.cat([self._one(), -self._one()]))
            return up * x.clamp(min=0) - down * x.clamp(max=0)
        return torch.cat([self._layer_by_layer(chunk) for chunk in x.unsqueeze(1).split(CHUNKS[x.device.type])])

    def _one(self) -> Tensor:
        return self.maps[0].weight.new_ones(1, 1)

    def _layer_by_layer(self, x: Tensor) -> Tensor:
        """x (N, 1) -> (N,), as the network is written."""
        for linear in self.maps[:-1]:
            x = self.activation(linear(x))
        return self.maps[-1](x).flatten()


class MetaFC(MetaNetwork):
    """FC-Grad, Eq. (9): g_W_tilde = FC(g_W_hat), two bias-free linear maps 1-h-1.

    use_nonlinear: None, "relu" or "tanh" between them; init "identity" begins as unclipped STE, g_W_tilde = g_W_hat.
    Raises ValueError for an unknown name or a size below 1.
    """

    def __init__(self, hidden_size: int = 100, use_nonlinear: str | None = None, init: str = "random"):
        super().__init__()
        self.fc = CoordinateFC(hidden_size, 2, use_nonlinear, init)

    def forward(self, g_W_hat: Tensor, W_tilde: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        return self.fc(g_W_hat), {}

    def gain(self) -> Tensor | None:
        return self.fc.gain()


class MetaDesignedMultiFC(MetaNetwork):
    """MultiFC, Eq. (10): g_W_tilde = g_W_hat * FC(W_tilde), num_layers bias-free linear maps 1-h-...-h-1.

    use_nonlinear: None, "relu" or "tanh" between them; init "identity" begins as g_W_tilde = W_tilde * g_W_hat.
    Raises ValueError for an unknown name or a size below 1.
    """

    def __init__(self, hidden_size: int = 100, num_layers: int = 3, use_nonlinear: str | None = None, init: str = "random"):
        super().__init__()
        self.fc = CoordinateFC(hidden_size, num_layers, use_nonlinear, init)

    def forward(self, g_W_hat: Tensor, W_tilde: Tensor, state: dict | None = None) -> tuple[Tensor, dict]:
        s = self.gain()
        return g_W_hat * self.fc(W_tilde) if s is None else s * (g_W_hat * W_tilde), {}

    def gain(self) -> Tensor | None:
        return self.fc.gain()


class MetaLSTMFC(MetaNetwork):
    """LSTMFC, Eq. (11): g_W_tilde = g_W_hat * FC(LSTM(W_tilde)), an LSTM of input size 1 and a linear map with bias.

    Every coordinate keeps its own (h, c), each (num_lstm, N, hidden_size); lstm_state "carry" hands them on detached, "reset"
    forgets them each time. init "identity" begins as unclipped STE (the linear map is 0 x + 1).
    Coordinates are processed in chunks that fit into the cache. In float32 a step with a gradient stores 16 hidden_size bytes per
    coordinate and layer; the states before and after it take 8 hidden_size bytes each. With a product_dtype of bfloat16 the
    LSTM's products have factors, and results, that are rounded to it, and a step stores half; all else is as before.
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
        learn = torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())
        how = (learn, self.chunk_size or CHUNKS[W_tilde.device.type], self.product_dtype or W_tilde.dtype)
        factor, h, c = CoordinateLSTM.apply(W_tilde, state["h"], state["c"], *how, self.fc.weight, self.fc.bias, *weights)
        return g_W_hat * factor, {"h": h, "c": c} if self.lstm_state == "carry" else {}

    def _weights(self, layer: int) -> Tensor:
        """(4h, h + input + 1): what multiplies the layer's h, its input and 1, as CoordinateLSTM takes it."""
        names = ("weight_hh", "weight_ih", "bias_ih", "bias_hh")
        W_hh, W_ih, b_ih, b_hh = (getattr(self.lstm, f"{name}_l{layer}") for name in names)
        return torch.cat([W_hh, W_ih, (b_ih + b_hh).unsqueeze(1)], dim=1)

    def state_shapes(self, coordinates: int) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("h", "c"), (self.lstm.num_layers, coordinates, self.lstm.hidden_size))

    def _zero_state(self, W_tilde: Tensor) -> dict[str, Tensor]:
        return {name: W_tilde.new_zeros(()).expand(shape) for name, shape in self.state_shapes(len(W_tilde)).items()}


def require_method(meta_method: str, meta_net: nn.Module) -> None:
    """Raises ValueError where the method does not name the network's class."""
    if meta_method not in META_NETWORKS or not isinstance(meta_net, META_NETWORKS.load(meta_method)):
        raise ValueError(f"meta_method {meta_method!r} does not name {type(meta_net).__name__}")
