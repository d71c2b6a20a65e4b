"""Iterations from a loader's batch to the numbers for the log, without waiting for the device in between.

On CUDA an iteration (augmentation, meta step, forward, backward, refinement, update, loss and accuracy) is captured as a graph,
and then replayed: the same kernels on the same tensors, launched all at once. Learning rates that change during a run are read
from the device (TrainingLoop.use_device_rates); others are numbers in the graph. It is captured again if one changes, and
where phi is frozen.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from meta_utils.capture import Body, CudaGraphs, why_not_captured
from meta_utils.training import TrainingLoop
from utils.batches import Loader
from utils.errors import first_cause
from utils.miscellaneous import accuracy

WARM_UP = 3  # iterations before the first capture: t = 0 and t = 1 differ from the others, and kernels are chosen
CHECKED = WARM_UP + 4  # iterations of the check: the warm-up, one that is captured, three that are replayed
LOG_SECONDS = 10.0  # the longest that the log lags behind a GPU within an epoch


class Measured(NamedTuple):
    """An iteration's loss, top-1 training accuracy in percent, number of images, and alpha."""

    loss: float
    top1: float
    size: int
    lr: float


class Iterations:
    """A loop's iterations on a loader's batches. Loss and accuracy stay on the device until they are read.

    graphs: None, or what captures iterations (CudaGraphs); the loop then does not look at its loss, which would wait. Each size
    of a batch is captured after it has run eagerly, and again when a learning rate that is not on the device has changed or phi
    is frozen; between iterations the state then lies in the same tensors. An iteration that cannot be captured runs eagerly, and
    so do all after it; on_eager is told why.
    set_rates: called with the number of each iteration before it begins; sets alpha and gamma where the schedule does.
    """

    def __init__(
        self,
        loop: TrainingLoop,
        loader: Loader,
        graphs: CudaGraphs | None = None,
        on_eager: Callable[[str], None] = print,
        set_rates: Callable[[int], None] = lambda iteration: None,
    ):
        self.loop, self.loader, self._graphs, self._on_eager = loop, loader, graphs, on_eager
        self._set_rates = set_rates
        loop.checks_loss &= graphs is None
        device = next(loop.net.parameters()).device
        self._lags = device.type == "cuda"
        self._measured = torch.zeros(len(loader), 2, dtype=torch.float64, device=device)
        self._row = torch.zeros(1, dtype=torch.int64, device=device)
        self._unread: list[tuple[int, float]] = []  # number of images, alpha
        self._read_at = time.monotonic()
        self._warm_up, self._ran = WARM_UP, set()
        self._carried: dict[str, dict[str, Tensor]] | None = None
        self._replays: dict[int, Body] = {}  # size of the batch -> what does an iteration
        self._captured_at: tuple[bool, tuple[float, ...]] | None = None  # whether phi is trained, and the rates, in the graphs

    def rest_of_epoch(self, epoch: int) -> Iterator[list[Measured]]:
        """Trains on the batches of an epoch (from 0) that the loop has not had; yields after each one what has been read.

        On CUDA reading waits for the device, so that it happens every LOG_SECONDS and at the epoch's end; `read` reads at once.
        """
        for size in self.begin(epoch, skip=self.loop.iteration - epoch * len(self.loader)):
            self.run(size)
            is_last = self.loop.iteration == (epoch + 1) * len(self.loader)
            may_wait = self._lags and time.monotonic() - self._read_at < LOG_SECONDS and not is_last
            yield [] if may_wait else self.read()

    def begin(self, epoch: int, skip: int = 0) -> list[int]:
        """Starts an epoch without its first `skip` batches; the sizes of the batches that are left, each for a `run`."""
        self._row.zero_()
        self._unread = []
        return self.loader.begin(epoch, skip)

    def run(self, size: int) -> None:
        """One iteration, on the next `size` images."""
        self._set_rates(self.loop.iteration)
        self.loop.refresh_rates()
        self._unread.append((size, self.loop.lr))
        body = partial(self._iterate, size)
        if self._graphs is None:
            body()
        elif self._warm_up or size not in self._ran:
            self._warm_up = max(0, self._warm_up - 1)
            self._ran.add(size)
            self._graphs.eagerly(body)
        else:
            self._replay(size, body)

    def read(self) -> list[Measured]:
        """The iterations since the last read or `begin`; waits for the device."""
        rows = self._measured[: len(self._unread)].tolist()
        measured = [Measured(*row, *known) for row, known in zip(rows, self._unread, strict=True)]
        self._row.zero_()
        self._unread, self._read_at = [], time.monotonic()
        return measured

    def check_capture(self, epoch: int) -> None:
        """Compares CHECKED eager iterations on an epoch's batches with captured ones; where they differ, eager ones go on.

        The state is afterwards what it was. The cost: 2 CHECKED iterations, and a capture for each size of a batch among them.
        """
        if self._graphs is None:
            return

        def losses(graphs: CudaGraphs | None) -> list[float]:
            work, measured = Iterations(self.loop, self.loader, graphs, self._fail, self._set_rates), []
            sizes = chain.from_iterable(map(work.begin, repeat(epoch)))  # a short epoch over again
            for size in islice(sizes, CHECKED):
                work.run(size)
                measured += work.read()
            return [one.loss for one in measured]

        if why := why_not_captured(self.loop, partial(losses, None), partial(losses, self._graphs)):
            self._go_eager(why)

    @staticmethod
    def _fail(why: str) -> None:
        raise RuntimeError(why)

    def _go_eager(self, why: str) -> None:
        self._graphs, self._carried, self._replays = None, None, {}
        self._on_eager(why)

    def _iterate(self, size: int) -> None:
        loss, outputs = self.loop.step(*(batch := self.loader.take(size)))
        (top1,) = accuracy(outputs, batch[1])
        self._measured.index_copy_(0, self._row, torch.stack([loss, top1]).double()[None])
        self._row += 1
        if self._carried is not None:
            self._put_back()

    def _replay(self, size: int, body: Body) -> None:
        fixed = self.loop.trains_phi, self.loop.rates_as_numbers()
        if fixed != self._captured_at:
            self._replays, self._captured_at = {}, fixed  # all at once: they share the stream's workspaces
        if size in self._replays:
            self.loop.iteration += 1
        elif not self._capture(size, body):
            body()
            return
        self._replays[size]()

    def _capture(self, size: int, body: Body) -> bool:
        """Captures an iteration, whose Python runs on the way, counters included; where that fails, all is as before."""
        if self._carried is None:
            self._carried = {
                kind: {name: value.clone() for name, value in tensors.items()} for kind, tensors in self.loop.carried().items()
            }
            self.loop.set_carried(self._carried)
        iteration, carried = self.loop.iteration, self._carried
        try:
            self._replays[size] = self._graphs.capture(body)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            self.loop.iteration = iteration
            self.loop.set_carried(carried)
            self._go_eager(f"the capture failed: {first_cause(error)}")
            return False
        return True

    @torch.no_grad()
    def _put_back(self) -> None:
        """Copies what the iteration left in new tensors to where the next one, captured, will look for it."""
        left = self.loop.carried()
        pairs = [(self._carried[kind][name], value) for kind, tensors in left.items() for name, value in tensors.items()]
        torch._foreach_copy_(*map(list, zip(*pairs, strict=True)))
        self.loop.set_carried(self._carried)
