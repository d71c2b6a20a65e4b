"""What an iteration costs on paper: the operations and bytes of the code itself, counted on torch's meta device, and the least
time that a machine needs for them.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from utils.benchmark.options import BenchmarkOptions, Turn
from utils.benchmark.trainer import trainer
from utils.choices import FLOAT32
from utils.files.markdown import markdown_table


class Machine(NamedTuple):
    """Peak operations per second (float32, a multiplication and an addition are two) and bytes per second of its memory."""

    name: str
    flops: float
    bandwidth: float


MACHINES = (
    Machine("H100 SXM, float32", 67e12, 3.35e12),  # NVIDIA's data sheet, dense
    Machine("H100 SXM, TF32", 494.7e12, 3.35e12),
)


class Cost(NamedTuple):
    """Floating-point operations of products and convolutions, and bytes read and written, each operation on its own."""

    flops: int
    bytes: int

    def lower_bound(self, machine: Machine) -> float:
        """Seconds: the larger of compute time and memory time."""
        return max(self.flops / machine.flops, self.bytes / machine.bandwidth)


class _ByteCounter(TorchDispatchMode):
    """Sums the sizes of what every operation reads and writes; views move nothing."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        kwargs = {name: value for name, value in (kwargs or {}).items() if name not in self._outputs(func)}  # among the results
        moves = not any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if moves and "empty" not in func._schema.name:
            self.total += sum(x.numel() * x.element_size() for x in tree_leaves((args, kwargs, results)) if torch.is_tensor(x))
        return results

    @staticmethod
    def _outputs(func) -> set[str]:
        return {argument.name for argument in func._schema.arguments if argument.is_out}


def count(work: Callable[[], None]) -> Cost:
    """The cost of some work on tensors of the meta device, which have shapes and no numbers."""
    with FlopCounterMode(display=False) as flops, _ByteCounter() as moved:
        work()
    return Cost(flops.get_total_flops(), moved.total)


def count_costs(options: BenchmarkOptions) -> dict[tuple[Any, ...], Cost]:
    """(net, batch size, quantizer, method) -> operations and bytes of an iteration, after the first two."""
    costs = {}
    for setup, name in product(options.setups, options.methods):
        run = trainer(Turn(name, FLOAT32), setup, options.optimizer, torch.device("meta"), eager=True)
        run(2)
        costs[*setup, name] = count(partial(run, 1))
    return costs


def table(costs: dict[tuple[Any, ...], Cost], machines: tuple[Machine, ...] = MACHINES) -> str:
    """A Markdown table from (net, batch size, quantizer, method) -> cost, with each machine's lower bound in ms."""
    columns = [
        "net",
        "batch",
        "quantizer",
        "method",
        "GFLOP",
        "GB",
        *(f"lower bound, {machine.name} (ms)" for machine in machines),
    ]
    rows = []
    for setup, cost in costs.items():
        bounds = [f"{1000 * cost.lower_bound(machine):.3g}" for machine in machines]
        rows.append([*map(str, setup), f"{cost.flops / 1e9:.1f}", f"{cost.bytes / 1e9:.2f}", *bounds])
    return markdown_table(columns, *rows)


def this_cpu(size: int = 2048, repeats: int = 5) -> Machine:
    """This machine's CPU, measured: the fastest of some products of matrices (size x size), and of some copies of 256 MB."""
    a, b = torch.rand(2, size, size)
    source = torch.rand(64 << 20)
    target = torch.empty_like(source)

    def fastest(work: Callable[[], object]) -> float:
        seconds = []
        for _ in range(repeats):
            begun = perf_counter()
            work()
            seconds.append(perf_counter() - begun)
        return min(seconds)

    flops = 2 * size**3 / fastest(lambda: a @ b)
    bandwidth = 2 * source.nbytes / fastest(lambda: target.copy_(source))
    return Machine(f"this CPU, {flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s", flops, bandwidth)
