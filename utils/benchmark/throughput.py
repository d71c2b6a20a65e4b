"""How much several runs at once get done on one device, each in a process of its own, as `main.py tables` runs them."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from threading import BrokenBarrierError

import torch

from meta_utils.iterations import WARM_UP
from utils.benchmark.options import BenchmarkOptions, Turn
from utils.benchmark.trainer import trainer
from utils.environment import choose_device, cpu_cores, keep_freed_memory
from utils.errors import BadInput, BadPart, RunFailed, first_line, machine_failure, shortened
from utils.files.markdown import markdown_table
from utils.files.text import counted

CIFAR_EPOCH = 50_000  # training images
PATIENCE = 600.0  # seconds until every process must have begun


@dataclass(frozen=True)
class Throughput:
    """Iterations per second of so many runs at once, all together; ratio to one run (None where that was not measured)."""

    model: str
    batch_size: int
    quantizer: str
    method: str
    precision: str
    runs: int
    iterations_per_second: float
    ratio_to_one: float | None

    @property
    def epoch_seconds(self) -> float:
        """What a CIFAR epoch of each run takes."""
        return self.runs * -(-CIFAR_EPOCH // self.batch_size) / self.iterations_per_second


@dataclass(frozen=True)
class Work:
    """What each process does: so many iterations of a method on a net, batch size and quantizer, after a warm-up."""

    setup: tuple[str, int, str]
    turn: Turn
    optimizer: str
    device: str
    iterations: int
    eager: bool


def measure_throughput(options: BenchmarkOptions, device: torch.device) -> list[Throughput]:
    """Times every method and precision with every count of runs at once. Raises RunFailed where a process fails."""
    o = options
    work = {"device": str(device), "iterations": o.repeats * o.iterations, "eager": o.eager}
    measurements = []
    for setup, turn in product(o.setups, o.turns):
        rates = {count: together(count, Work(setup, turn, o.optimizer, **work)) for count in o.at_once}
        measurements += [
            Throughput(*setup, *turn, count, rate, rate / rates[1] if 1 in rates else None) for count, rate in rates.items()
        ]
    return measurements


def together(count: int, work: Work) -> float:
    """Iterations per second, the sum over `count` processes that begin together, each with its share of the cores.

    Raises RunFailed with what a process says of its failure.
    """
    context = multiprocessing.get_context("spawn")
    barrier, reports = context.Barrier(count), context.SimpleQueue()
    threads = max(1, cpu_cores() // count)
    processes = [context.Process(target=_run, args=(work, threads, barrier, reports)) for _ in range(count)]
    try:
        with _held_interrupts():
            for process in processes:
                process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()
    found = []
    while not reports.empty():
        found.append(reports.get())
    rates = [report for report in found if isinstance(report, float)]
    if len(rates) < count:
        codes = ", ".join(str(process.exitcode) for process in processes)
        why = next((report for report in found if isinstance(report, str)), f"the processes ended with exit codes {codes}")
        raise RunFailed(f"{counted(count, 'run')} of {work.turn.method} at once: {why}")
    return sum(rates)


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """Ctrl-C takes effect afterwards. Processes that are started meanwhile never notice it: their parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(work: Work, threads: int, barrier: Barrier, reports: SimpleQueue) -> None:
    """In a process of its own: reports its iterations per second, or, if it is the first to fail, why. Then it exits with 1."""
    try:
        reports.put(_rate(work, threads, barrier))
    except BrokenBarrierError:  # another one has failed
        sys.exit(1)
    except Exception as error:
        is_first = not barrier.broken
        barrier.abort()  # the others must not wait
        if is_first:
            reports.put(shortened(machine_failure(error) or first_line(error)))
        if not isinstance(error, (BadInput, BadPart)) and machine_failure(error) is None:
            raise
        sys.exit(1)


def _rate(work: Work, threads: int, barrier: Barrier) -> float:
    """Iterations per second, once all have warmed up."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    device = choose_device(work.device)
    run = trainer(work.turn, work.setup, work.optimizer, device, work.eager)
    run(WARM_UP + 2)
    _wait_for(device)
    barrier.wait(PATIENCE)
    begun = time.perf_counter()
    run(work.iterations)
    _wait_for(device)
    return work.iterations / (time.perf_counter() - begun)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(measurements: list[Throughput]) -> str:
    """The measurements as a Markdown table."""
    head = ["net", "batch", "quantizer", "method", "precision"]
    columns = [*head, "runs at once", "iterations / s together", "x one run", "s / epoch of each"]
    rows = []
    for t in measurements:
        ratio = "" if t.ratio_to_one is None else f"{t.ratio_to_one:.2f}"
        fields = [t.model, t.batch_size, t.quantizer, t.method, t.precision, t.runs, f"{t.iterations_per_second:.2f}", ratio]
        rows.append([*map(str, fields), f"{t.epoch_seconds:.3g}"])
    return markdown_table(columns, *rows)
