"""CUDA graphs of an iteration, and the check that replaying them does what the eager iteration does."""

import copy
import gc
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from meta_utils.training import TrainingLoop
from utils.environment import random_states, restore_random_states
from utils.errors import first_line

Body = Callable[[], None]
TOLERANCE = 0.01  # in the 2-norm, of the losses and of what the checked iterations change in the parameters and in phi


class CudaGraphs:
    """Captures work as CUDA graphs that share one pool of memory, and does work eagerly, on one stream."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._keeps_pool = torch.cuda.CUDAGraph()  # a pool without a graph cannot be captured into again
        with torch.cuda.graph(self._keeps_pool, pool=self._pool, stream=self._stream):
            torch.zeros(1, device=device)

    def eagerly(self, body: Body) -> None:
        """Does the work."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            body()
        torch.cuda.current_stream().wait_stream(self._stream)

    def capture(self, body: Body) -> Body:
        """Records the work without doing it; what is returned does it. Raises RuntimeError where it cannot be captured."""
        gc.collect()  # a graph that the collector meets later, during the capture, would spoil it
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                body()
        finally:
            torch.cuda.set_stream(current)  # which a capture that fails leaves out
        return graph.replay


def why_not_captured(loop: TrainingLoop, eager: Callable[[], list[float]], replayed: Callable[[], list[float]]) -> str | None:
    """Why captured iterations cannot be trusted on this device; None where replaying them does what eager ones do.

    eager, replayed: run the same few iterations of the loop and return their losses, the second by capture and replay. Both start
    from the present state; afterwards the loop and all random generators are what they were. The losses, and the changes of the
    parameters and of phi, may differ by TOLERANCE, relative to the eager ones.
    """
    before, generators = copy.deepcopy(loop.state_dict()), random_states()
    meta_net = list(loop.meta_net.parameters()) if loop.learned else []
    start = _flat(loop.net.parameters()), _flat(meta_net)

    def changes(run: Callable[[], list[float]]) -> dict[str, Tensor]:
        try:
            losses = torch.tensor(run(), dtype=torch.float64)
            return {"losses": losses, "parameters": _flat(loop.net.parameters()) - start[0], "phi": _flat(meta_net) - start[1]}
        finally:
            loop.load_state_dict(before)
            restore_random_states(generators)

    expected = changes(eager)
    try:
        found = changes(replayed)
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        return first_line(error)
    for name, value in expected.items():
        difference = ((found[name] - value).norm() / value.norm().clamp(min=1e-12)).item()
        if not difference <= TOLERANCE and value.isfinite().all():  # a loss that is not finite is the run's to report
            return f"the {name} of replayed iterations differ from those of eager ones by {difference:.1e}, relatively"
    return None


def _flat(parameters: Iterable[Tensor]) -> Tensor:
    values = [p.detach().double().flatten() for p in parameters]
    return torch.cat(values) if values else torch.zeros(0)
