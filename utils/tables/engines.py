"""Where a table's runs are carried out: processes on this machine, or a Ray cluster. Each run is a process of its own."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from subprocess import Popen
from typing import NamedTuple, Protocol

from utils.environment import cpu_cores, visible_gpus
from utils.errors import BadInput, first_line
from utils.files import regular
from utils.tables import child
from utils.tables.options import EngineOptions
from utils.tables.selection import TableRun

OUTPUT = "output.log"  # in the run's folder: what its processes printed


class Ended(NamedTuple):
    """A run whose process has ended: its exit code, negative where it was killed, and what else there is to say."""

    run: TableRun
    code: int
    note: str = ""


class Engine(Protocol):
    """Carries runs out, several at once."""

    @property
    def active(self) -> int:
        """Runs that were started and have not been reported as ended."""

    @property
    def has_room(self) -> bool:
        """Whether another run may be started."""

    def start(self, run: TableRun) -> None:
        """Starts a run."""

    def ended(self) -> list[Ended]:
        """The runs that have ended since the last call; does not wait."""

    def close(self) -> None:
        """Stops what is still active: each run writes a checkpoint and ends."""


class LocalEngine:
    """Processes on this machine, one per slot; a slot holds the environment variables added for its process."""

    def __init__(self, slots: list[dict[str, str]]):
        self.slots, self._free = slots, list(slots)
        self._active: dict[TableRun, tuple[Popen, dict[str, str]]] = {}

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def has_room(self) -> bool:
        return bool(self._free)

    def start(self, run: TableRun) -> None:
        slot = self._free[0]
        self._active[run] = child.start_child(*child_arguments(run), slot), slot
        self._free.pop(0)  # not before: where the start fails, the slot stays free

    def ended(self) -> list[Ended]:
        ends = [Ended(run, process.poll()) for run, (process, _) in self._active.items() if process.poll() is not None]
        self._free += [self._active.pop(end.run)[1] for end in ends]
        return ends

    def close(self) -> None:
        processes = [process for process, _ in self._active.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            child.stop_child(process)
        self._active.clear()


class RayEngine:
    """Tasks of Ray's core, each holding CPUs and, unless it runs on the CPU, a share of a GPU; Ray restarts one that died.

    On the CPU (on_cpu, or no node has a GPU) they are spread over the nodes; without `jobs`, trials_per_device times the nodes
    run at once, and each holds its share of a node's CPUs unless `cpus` says how many. Every node must see the project, its
    Python and the results under the same paths. Raises BadInput where Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        address: str | None,
        jobs: int | None,
        trials_per_device: int,
        cpus: int | None,
        retries: int,
        on_cpu: bool = False,
    ):
        try:
            import ray
        except ImportError:
            raise BadInput("--engine ray: Ray is not installed: pip install -r requirements-ray.txt") from None
        self._ray, self._jobs = ray, jobs
        cores = jobs * (cpus or 1) if jobs else cpu_cores()
        try:
            own = {} if address else {"num_cpus": cores, "include_dashboard": False}
            ray.init(address or "local", **own, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f", --address {address}" if address else ""
            raise BadInput(f"--engine ray{where}: {first_line(error)}") from None
        for module in (child, regular):
            ray.cloudpickle.register_pickle_by_value(module)
        self._share = 1 / trials_per_device if ray.cluster_resources().get("GPU") else 0  # of a GPU
        spread = {}
        if on_cpu or not self._share:
            spread = {"scheduling_strategy": "SPREAD"}
            nodes = [int(node["Resources"]["CPU"]) for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
            if nodes and not jobs:
                self._jobs = trials_per_device * len(nodes)
                cpus = cpus or max(1, min(nodes) // trials_per_device)
        self._task = ray.remote(num_cpus=cpus or 1, max_retries=retries, **spread)(child.run_child)
        self._active = {}

    @property
    def active(self) -> int:
        return len(self._active)

    @property
    def has_room(self) -> bool:
        return self._jobs is None or len(self._active) < self._jobs  # Ray queues what does not fit yet

    def start(self, run: TableRun) -> None:
        task = self._task.options(num_gpus=self._share if run.settings.device != "cpu" else 0)
        self._active[task.remote(*child_arguments(run), {})] = run

    def ended(self) -> list[Ended]:
        if not self._active:
            return []
        references, _ = self._ray.wait(list(self._active), num_returns=len(self._active), timeout=0)
        return [self._result(reference) for reference in references]

    def _result(self, reference: object) -> Ended:
        run = self._active.pop(reference)
        try:
            return Ended(run, self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            last = " ".join(str(error).splitlines()[-1:])
            return Ended(run, 1, f"Ray gave up: {type(error).__name__}: {last}")

    def close(self) -> None:
        for reference in self._active:
            self._ray.cancel(reference, recursive=False)
        if self._active:
            self._ray.wait(list(self._active), num_returns=len(self._active), timeout=child.GRACE)
        self._ray.shutdown()


def make_engine(options: EngineOptions, runs: Sequence[TableRun]) -> Engine:
    """The engine that the options ask for, for these runs."""
    o = options
    if o.engine == "ray":
        on_cpu = all(run.settings.device == "cpu" for run in runs)
        return RayEngine(o.address, o.jobs, o.trials_per_device, o.cpus_per_run, o.retries, on_cpu)
    return LocalEngine(local_slots(o, visible_gpus(), {run.settings.device for run in runs}))


def local_slots(options: EngineOptions, gpus: list[str], devices: Collection[str] = ("auto",)) -> list[dict[str, str]]:
    """The slots of this machine: trials_per_device for each GPU, taken in turns, or jobs of them on the CPU.

    devices: the runs' --device. Oversubscribed cores slow each other down; each slot therefore says how many threads its process
    may use, unless OMP_NUM_THREADS is set. Raises BadInput for more jobs than the GPUs take.
    """
    spread = {"auto", "cuda"}.issuperset(devices)  # cuda:1 is that very GPU, for all runs
    if gpus and spread:
        slots = [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(options.trials_per_device) for gpu in gpus]
        if options.jobs and options.jobs > len(slots):
            raise BadInput(
                f"--jobs {options.jobs}: at most {len(slots)} ({len(gpus)} GPUs, --trials-per-device {options.trials_per_device})"
            )
        slots = slots[: options.jobs]
    else:
        slots = [{} for _ in range(options.jobs or options.trials_per_device)]
    threads = options.cpus_per_run or max(1, cpu_cores() // len(slots))
    if options.cpus_per_run or "OMP_NUM_THREADS" not in os.environ:
        slots = [slot | {"OMP_NUM_THREADS": str(threads)} for slot in slots]
    return slots


def child_arguments(run: TableRun) -> tuple[list[str], Path, Path]:
    """What start_child and run_child take, but for the environment."""
    return run.command, (run.path / OUTPUT).absolute(), Path.cwd()
