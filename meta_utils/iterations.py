"""Iterations from a loader's batch to the numbers for the log, without waiting for the device in between.

On CUDA an iteration (augmentation, meta step, forward, backward, refinement, update, loss and accuracy) is captured as a graph,
again when a learning rate changes, and then replayed: the same kernels on the same numbers, launched all at once.
"""

import gc
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from meta_utils.training import TrainingLoop
from utils.batches import Loader
from utils.miscellaneous import accuracy

Body = Callable[[], None]
WARM_UP = 3  # iterations before the first capture: t = 0 and t = 1 differ from the others, and kernels are chosen


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
        """Records the work without doing it; what is returned does it."""
        gc.collect()  # a graph that the collector meets later, during the capture, would spoil it
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            body()
        return graph.replay


class Measured(NamedTuple):
    """An iteration's loss, top-1 training accuracy in percent, and number of images."""

    loss: float
    top1: float
    count: int


class Iterations:
    """A loop's iterations on a loader's batches. Loss and accuracy stay on the device until `read`.

    graphs: None, or what captures iterations (CudaGraphs); the loop then does not look at its loss, which would wait.
    Each size of a batch is captured after it has run eagerly, and again when a learning rate has changed; between iterations the
    state then lies in the same tensors.
    """

    def __init__(self, loop: TrainingLoop, loader: Loader, graphs: CudaGraphs | None = None):
        self.loop, self.loader, self._graphs = loop, loader, graphs
        loop.checks_loss &= graphs is None
        device = next(loop.net.parameters()).device
        self._measured = torch.zeros(len(loader), 2, dtype=torch.float64, device=device)
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self._unread: list[int] = []
        self._read_at = time.monotonic()
        self._warm_up, self._ran = WARM_UP, set()
        self._carried: dict[str, dict[str, Tensor]] | None = None
        self._replays: dict[int, Body] = {}  # size of the batch -> what does an iteration
        self._captured_at: tuple[float, ...] | None = None

    @property
    def seconds_unread(self) -> float:
        """How long ago `read` was called."""
        return time.monotonic() - self._read_at

    def begin(self, epoch: int, skip: int = 0) -> list[int]:
        """Starts an epoch, `skip` batches in; the sizes of the batches that are left, each for a `run`."""
        self.loader.epoch, self.loader.skip = epoch, skip
        self._row.zero_()
        self._unread = []
        return self.loader.begin()

    def run(self, count: int) -> None:
        """One iteration, on the next `count` images."""
        self._unread.append(count)
        body = partial(self._iterate, count)
        if self._graphs is None:
            body()
        elif self._warm_up or count not in self._ran:
            self._warm_up = max(0, self._warm_up - 1)
            self._ran.add(count)
            self._graphs.eagerly(body)
        else:
            self._replay(count, body)

    def read(self) -> list[Measured]:
        """The iterations since the last read or `begin`; waits for the device."""
        rows = self._measured[: len(self._unread)].tolist()
        found = [Measured(*row, count) for row, count in zip(rows, self._unread, strict=True)]
        self._row.zero_()
        self._unread, self._read_at = [], time.monotonic()
        return found

    def _iterate(self, count: int) -> None:
        with record_function("data"):
            inputs, targets = self.loader.take(count)
        loss, outputs = self.loop.step(inputs, targets)
        (top1,) = accuracy(outputs, targets)
        self._measured.index_copy_(0, self._row, torch.stack([loss, top1]).double()[None])
        self._row += 1
        if self._carried is not None:
            self._settle()

    def _replay(self, count: int, body: Body) -> None:
        rates = (self.loop.lr, self.loop.meta_lr)
        if rates != self._captured_at:
            self._replays, self._captured_at = {}, rates  # all at once: they share the stream's workspaces
        if count not in self._replays:
            if self._carried is None:
                self._carried = {
                    kind: {name: value.clone() for name, value in tensors.items()}
                    for kind, tensors in self.loop.carried().items()
                }
                self.loop.set_carried(self._carried)
            self._replays[count] = self._graphs.capture(body)  # runs the Python of the iteration, counters included
        else:
            self.loop.iteration += 1
        self._replays[count]()

    @torch.no_grad()
    def _settle(self) -> None:
        """Copies what the iteration left in new tensors to where the next one, captured, will look for it."""
        left = self.loop.carried()
        pairs = [(self._carried[kind][name], value) for kind, tensors in left.items() for name, value in tensors.items()]
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        self.loop.set_carried(self._carried)
