"""The benchmark: what it prints and writes. What it finds is the machine's."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from subprocess import PIPE

import pytest
import torch
from conftest import PROJECT, until
from torch.profiler import ProfilerActivity, profile

from utils.benchmark.options import Turn
from utils.benchmark.throughput import Work, _run, together
from utils.benchmark.timing import PHASES, is_within_a_phase, phase_of
from utils.benchmark.trainer import trainer
from utils.errors import RunFailed

STE = Turn("STE", "float32")


def two_children(parent):
    """The processes that a process has started and that have loaded torch; None unless there are two of them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == parent and "libtorch" in stat.with_name("maps").read_text():
                found.append(stat.parent.name)
    return found if len(found) == 2 else None


def test_benchmark_prints_a_table_and_writes_json(call_main, tmp_path):
    out = tmp_path / "b.json"
    methods = ["plain", "STE", "MultiFC", "FC-Grad:tanh"]
    arguments = ["--methods", *methods, "--batch-sizes", "2", "--quantizers", "BWN", "--repeats", "2", "--iterations", "1"]
    outcome = call_main("benchmark", *arguments, "--device", "cpu", "--out", out)
    assert outcome.code == 0, outcome.err
    rows = [line.strip("| ").split(" | ") for line in outcome.out.splitlines() if line.startswith("| ResNet20")]
    assert [row[:5] for row in rows] == [["ResNet20", "2", "BWN", method, "float32"] for method in methods]
    record = json.loads(out.read_text())
    assert {"device", "versions", "git", "settings", "peak_memory"} <= set(record)
    plain, ste, multi, _ = record["measurements"]
    assert ste["ratio_to_ste"] == 1
    assert plain["ratio_to_plain"] == 1
    assert multi["fastest"] <= multi["seconds"] <= multi["slowest"]
    assert multi["images_per_second"] == pytest.approx(2 / multi["seconds"])
    assert ste["phases"]["meta"] == 0
    for one in (ste, multi):
        assert min(one["phases"]["forward"], one["phases"]["backward"]) > 0
        assert sum(one["phases"].values()) == pytest.approx(1, abs=0.02)
    assert multi["phases"]["meta"] > 0


def test_precisions_take_turns_and_are_compared(call_main, tmp_path):
    out, precisions = tmp_path / "b.json", ["bf16", "float32"]
    flags = ["--methods", "plain", "STE", "--batch-sizes", "1", "--repeats", "2", "--iterations", "1", "--device", "cpu"]
    outcome = call_main("benchmark", *flags, "--precision", *precisions, "--out", out)
    assert outcome.code == 0, outcome.err
    found = json.loads(out.read_text())["measurements"]
    turns = [("plain", "bf16"), ("plain", "float32"), ("STE", "bf16"), ("STE", "float32")]
    assert [(one["method"], one["precision"]) for one in found] == turns
    seconds = {turn: one["seconds"] for turn, one in zip(turns, found, strict=True)}
    fastest, slowest = ({turn: one[end] for turn, one in zip(turns, found, strict=True)} for end in ("fastest", "slowest"))
    for turn, one in zip(turns, found, strict=True):
        others = {"ste": ("STE", turn[1]), "plain": ("plain", turn[1]), "float32": (turn[0], "float32")}
        for name, other in others.items():
            ratio = one[f"ratio_to_{name}"]
            assert ratio == 1 if other == turn else fastest[turn] / slowest[other] <= ratio <= slowest[turn] / fastest[other]
    assert len({*seconds.values()}) == 4


def test_a_methods_products_are_in_the_precision_of_its_turn():
    """The same iterations of the same net, in two precisions; float32 twice is the same."""
    losses = []
    for precision in ("float32", "bf16", "float32"):
        run = trainer(Turn("STE", precision), ("ResNet20", 2, "dorefa"), "SGD", torch.device("cpu"), eager=True)
        seen = []
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda module, _, out, seen=seen: seen.append(out.dtype) if isinstance(module, torch.nn.Conv2d) else None
        )
        run(1)
        handle.remove()
        losses.append({*seen})
    assert losses == [{torch.float32}, {torch.bfloat16}, {torch.float32}]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_every_phase_is_seen_and_a_phase_within_another_is_not_counted_twice(optimizer):
    run = trainer(Turn("MultiFC", "float32"), ("ResNet20", 2, "dorefa"), optimizer, torch.device("cpu"), eager=True)
    run(2)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(1)
    phases = [event for event in profiler.events() if phase_of(event.name)]
    assert {phase_of(event.name) for event in phases if not is_within_a_phase(event)} == set(PHASES)
    within = {event.name: event.cpu_parent.name for event in phases if is_within_a_phase(event)}
    assert within == {"update": "Optimizer.step#Adam.step"}  # phi's


@pytest.mark.parametrize("method", ["RNN", "STE:relu", "LSTMFC:tanh", "MultiFC:gelu"])
def test_unknown_methods_are_refused(method, call_main):
    outcome = call_main("benchmark", "--methods", method)
    assert outcome.code == 2
    assert "--methods" in outcome.err
    assert repr(method) in outcome.err


def test_several_runs_at_once(call_main, tmp_path):
    out = tmp_path / "b.json"
    arguments = ["--methods", "STE", "--at-once", "1", "2", "--batch-sizes", "2", "--repeats", "1", "--iterations", "3"]
    outcome = call_main("benchmark", *arguments, "--device", "cpu", "--out", out)
    assert outcome.code == 0, outcome.err
    rows = [line.strip("| ").split(" | ") for line in outcome.out.splitlines() if line.startswith("| ResNet20")]
    assert [row[3:6] for row in rows] == [["STE", "float32", "1"], ["STE", "float32", "2"]]
    one, two = json.loads(out.read_text())["measurements"]
    assert one["ratio_to_one"] == 1
    assert two["ratio_to_one"] == pytest.approx(two["iterations_per_second"] / one["iterations_per_second"])
    seconds = float(rows[1][-1])  # of an epoch of 25,000 batches, of each of the two
    assert seconds == pytest.approx(2 * 25_000 / two["iterations_per_second"], rel=0.01)


def test_a_process_that_fails_lets_no_other_wait_for_it():
    barrier, reports = threading.Barrier(2), SimpleQueue()
    work = Work(("ResNet9", 2, "dorefa"), STE, "SGD", "cpu", iterations=1, eager=False)
    with ThreadPoolExecutor() as pool:
        other = pool.submit(barrier.wait, 60)
        with pytest.raises(SystemExit):
            _run(work, torch.get_num_threads(), barrier, reports)
        assert isinstance(other.exception(), threading.BrokenBarrierError)
    assert "ResNet9" in reports.get()


def test_processes_that_fail_are_an_error_in_one_line(capfd):
    work = Work(("torchvision:alexnet", 2, "dorefa"), STE, "SGD", "cpu", iterations=1, eager=False)
    with pytest.raises(RunFailed, match=r"^2 runs of STE at once: -m torchvision:alexnet: this net cannot take 32x32 images "):
        together(2, work)
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_ends_runs_at_once_in_one_line(tmp_path):
    """A terminal sends the signal to all processes of the group; here while the runs begin."""
    command = [sys.executable, "main.py", "benchmark", "--at-once", "2", "--methods", "STE", "--iterations", "1000000"]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=PIPE, stderr=PIPE, text=True, start_new_session=True)
    children = until(lambda: two_children(process.pid))
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "main.py: stopped by SIGINT\n")
    assert process.returncode == 130
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize(
    ("flags", "words"), [(["--at-once", "2"], ["--at-once", "--scale"]), (["--out", "b.json"], ["--out", "--scale only prints"])]
)
def test_what_scale_cannot_do_is_refused(flags, words, refuses):
    refuses(["benchmark", "--scale", *flags], words)
