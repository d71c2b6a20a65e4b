"""What an iteration costs: methods interleaved in one process, medians and spread, ratios to STE, phases, memory."""

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from meta_utils.iterations import WARM_UP
from utils.benchmark.options import PLAIN, BenchmarkOptions, Turn
from utils.benchmark.trainer import trainer
from utils.choices import FLOAT32, STE
from utils.files.markdown import markdown_table

WHOLE = "iterations"
PROFILED = 5  # iterations at most
PHASES = ("data", "meta", "forward", "backward", "update")  # record_function's labels of what an iteration calls, and
TORCHS_LABELS = {"Optimizer.step#": "meta", "autograd::engine::evaluate_function": "backward"}  # torch's: phi's step, backward


@dataclass(frozen=True)
class Measurement:
    """Seconds per iteration (median, lowest, highest), ratios (medians of the rounds' ratios), shares of phases.

    ratio_to_ste, ratio_to_plain: to these in the same precision; ratio_to_float32: to the same method in float32.
    eager_because: why its iterations ran eagerly although they should have been captured; None where they did not.
    """

    model: str
    batch_size: int
    quantizer: str
    method: str
    precision: str
    seconds: float
    fastest: float
    slowest: float
    iterations_per_second: float
    images_per_second: float
    ratio_to_ste: float | None
    ratio_to_plain: float | None
    ratio_to_float32: float | None
    phases: dict[str, float]
    cuda_bytes: int | None
    eager_because: str | None = None


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """How long some work takes: by CUDA events on a GPU, by the wall clock elsewhere."""
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def _phase_shares(run: Callable[[int], None], iterations: int, device: torch.device) -> dict[str, float]:
    """The share of the host's time in each phase of an iteration, by the profiler; what is left is "other"."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's notes to its developers
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler, record_function(WHOLE):
        run(iterations)
        if device.type == "cuda":
            torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == DeviceType.CPU]
    whole = next(event.cpu_time_total for event in events if event.name == WHOLE)
    outermost = [event for event in events if phase_of(event.name) and not is_within_a_phase(event)]
    shares = {phase: sum(e.cpu_time_total for e in outermost if phase_of(e.name) == phase) / whole for phase in PHASES}
    return {**shares, "other": max(0.0, 1 - sum(shares.values()))}


def is_within_a_phase(event: FunctionEvent) -> bool:
    """Whether another phase encloses a profiler's event, as phi's step encloses the refinement of its gradient."""
    while event := event.cpu_parent:
        if phase_of(event.name):
            return True
    return False


def phase_of(label: str) -> str | None:
    """The phase of an iteration that a label of the profiler stands for; None for another label."""
    if label in PHASES:
        return label
    return next((phase for beginning, phase in TORCHS_LABELS.items() if label.startswith(beginning)), None)


def measure(options: BenchmarkOptions, device: torch.device) -> list[Measurement]:
    """Times every method, in every precision, on every net, batch size and quantizer; those of one such setup take turns.

    Each of `repeats` rounds gives each of them `iterations` iterations; a warm-up comes first. On CUDA the methods replay
    captured iterations unless `eager`; "plain" is what a user of torch writes and stays eager, and so do the phases.
    """
    o = options
    timed = [_take_turns(setup, o, device) for setup in o.setups]
    measurements = []
    # after all the timing: on CUDA the profiler slows down what follows it
    for setup, (rounds, not_captured) in zip(o.setups, timed, strict=True):
        for turn in o.turns:
            phases, cuda_bytes = _look_inside(turn, setup, o, device)
            seconds = [each[turn] for each in rounds]
            median = statistics.median(seconds)
            measurements.append(
                Measurement(
                    *setup,
                    **turn._asdict(),
                    seconds=median,
                    fastest=min(seconds),
                    slowest=max(seconds),
                    iterations_per_second=1 / median,
                    images_per_second=setup[1] / median,
                    ratio_to_ste=_ratio(rounds, turn, turn._replace(method=STE)),
                    ratio_to_plain=_ratio(rounds, turn, turn._replace(method=PLAIN)),
                    ratio_to_float32=_ratio(rounds, turn, turn._replace(precision=FLOAT32)),
                    phases=phases,
                    cuda_bytes=cuda_bytes,
                    eager_because=not_captured.get(turn),
                )
            )
    return measurements


def _take_turns(
    setup: tuple[str, int, str], options: BenchmarkOptions, device: torch.device
) -> tuple[list[dict[Turn, float]], dict[Turn, str]]:
    """Seconds per iteration of every method and precision, round by round; and which were not captured, with the reason."""
    o = options
    not_captured: dict[Turn, str] = {}
    trainers = {turn: trainer(turn, setup, o.optimizer, device, o.eager, not_captured) for turn in o.turns}
    for run in trainers.values():
        run(WARM_UP + 2 if device.type == "cuda" else 2)
    times = [
        {turn: _seconds(partial(run, o.iterations), device) / o.iterations for turn, run in trainers.items()}
        for _ in range(o.repeats)
    ]
    return times, not_captured


def _look_inside(
    turn: Turn, setup: tuple[str, int, str], options: BenchmarkOptions, device: torch.device
) -> tuple[dict[str, float], int | None]:
    """Shares of the phases of a method's eager iterations, and the bytes that it takes on a GPU, its images included."""
    before = 0
    if device.type == "cuda":
        # the libraries' workspaces, taken once, are no method's own
        trainer(turn, setup, options.optimizer, device, eager=True)(2)
        gc.collect()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    run = trainer(turn, setup, options.optimizer, device, eager=True)
    run(2)
    phases = {} if turn.method == PLAIN else _phase_shares(run, min(options.iterations, PROFILED), device)
    return phases, torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else None


def _ratio(rounds: list[dict[Turn, float]], turn: Turn, other: Turn) -> float | None:
    """The median of the ratios round by round; None where the other was not measured."""
    return statistics.median(each[turn] / each[other] for each in rounds) if other in rounds[0] else None


def table(measurements: list[Measurement]) -> str:
    """The measurements as a Markdown table."""
    columns = [
        "net",
        "batch",
        "quantizer",
        "method",
        "precision",
        "ms / iteration (lowest - highest)",
        "images / s",
        "x STE",
        "x plain",
        "x float32",
        *PHASES,
    ]
    rows = []
    for m in measurements:
        known = (m.ratio_to_ste, m.ratio_to_plain, m.ratio_to_float32)
        ratios = ["" if ratio is None else f"{ratio:.3f}" for ratio in known]
        shares = [f"{100 * m.phases[phase]:.1f} %" if m.phases else "" for phase in PHASES]
        spread = f"{1000 * m.seconds:.1f} ({1000 * m.fastest:.1f} - {1000 * m.slowest:.1f})"
        method = f"{m.method} (not captured)" if m.eager_because else m.method
        setup = [m.model, str(m.batch_size), m.quantizer, method, m.precision]
        rows.append([*setup, spread, f"{m.images_per_second:.0f}", *ratios, *shares])
    return markdown_table(columns, *rows)
