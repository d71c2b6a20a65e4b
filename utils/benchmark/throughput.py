"""How much several runs at once get done on one device, each in a process of its own, as `main.py tables` runs them."""

import multiprocessing
import time
from dataclasses import dataclass
from itertools import product
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier

import torch

from meta_utils.iterations import WARM_UP
from utils.benchmark.options import BenchmarkOptions, Turn
from utils.benchmark.trainer import trainer
from utils.environment import choose_device, cpu_cores, keep_freed_memory
from utils.errors import RunFailed
from utils.files.markdown import markdown_table

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
    for *setup, turn in product(o.models, o.batch_sizes, o.quantizers, o.turns):
        rates = {count: together(count, Work(tuple(setup), turn, o.optimizer, **work)) for count in o.at_once}
        measurements += [
            Throughput(*setup, *turn, count, rate, rate / rates[1] if 1 in rates else None) for count, rate in rates.items()
        ]
    return measurements


def together(count: int, work: Work) -> float:
    """Iterations per second, the sum over `count` processes that begin together, each with its share of the cores.

    Raises RunFailed where a process fails.
    """
    context = multiprocessing.get_context("spawn")
    barrier, rates = context.Barrier(count), context.SimpleQueue()
    threads = max(1, cpu_cores() // count)
    processes = [context.Process(target=_run, args=(work, threads, barrier, rates)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        codes = ", ".join(str(process.exitcode) for process in processes)
        raise RunFailed(f"{count} runs of {work.turn.method} at once: the processes ended with exit codes {codes}")
    return sum(rates.get() for _ in processes)


def _run(work: Work, threads: int, barrier: Barrier, rates: SimpleQueue) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)
    device = choose_device(work.device)
    try:
        run = trainer(work.turn, work.setup, work.optimizer, device, work.eager)
        run(WARM_UP + 2)
        _wait_for(device)
    except BaseException:
        barrier.abort()  # the others must not wait
        raise
    barrier.wait(PATIENCE)
    begun = time.perf_counter()
    run(work.iterations)
    _wait_for(device)
    rates.put(work.iterations / (time.perf_counter() - begun))


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
