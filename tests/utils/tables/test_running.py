"""Tables that are really run, on processes, under a simulated Slurm and on Ray, and really disturbed."""

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import until
from small_main import SMALL_MAIN
from table_runs import by_hand, logs_of, record, runs_of, states

from utils.choices import MODELS
from utils.tables.selection import State

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (requirements-ray.txt)")


def process_of(run):
    """The process that holds a run's lock; None where nobody does."""
    lock = run.path / "run.lock"
    words = lock.read_text().split() if lock.exists() else []
    return int(words[1]) if words else None


def test_a_failure_stops_nothing_and_a_killed_run_is_resumed(server, command, call_main, manifest, tmp_path, tally):
    """Three cells side by side: one whose test loss is not finite, one that is killed in the middle, one left alone."""
    fails = '{ model = "ResNet8", quantizer = "dorefa", backward = "FC-Grad", optimizer = "SGD" },\n]'
    rule = '[[rules]]\nwhy = "to fail"\nwhen = { backward = "FC-Grad", quantizer = "dorefa" }\nset = { init-lr = 1e38 }\n'
    manifest.write_text(f"{manifest.read_text().rstrip().removesuffix(']')}{fails}\n{rule}")
    flags = ["-n", "12", "--set", "checkpoint-every=1it", "--jobs", "3"]
    good = by_hand(runs_of(command("whole", *flags))[:2], call_main)
    runs = runs_of(command("R", *flags))
    server.start(command("R", *flags), tmp_path / "log")
    until(lambda: (runs[0].path / "checkpoint.pth").exists())
    os.kill(process_of(runs[0]), signal.SIGKILL)
    assert server.wait() == 1
    output = (tmp_path / "log").read_text()
    assert f"again: {runs[0]}: its process was killed (-9)" in output
    assert output.count(f"failed: {runs[2]}: {SMALL_MAIN.name}: error: the test loss is ") == output.count("failed: ") == 1
    assert output.rstrip().endswith(f"{SMALL_MAIN.name}: error: 1 of 3 runs failed; rerun the same command to try them again")
    assert states(runs) == [State.DONE, State.DONE, State.FAILED]
    assert logs_of(runs[:2]) == good
    assert "resumed after" in (runs[0].path / "output.log").read_text()
    tally("a table's run killed: the table resumes it")


def test_without_retries_a_killed_run_has_failed(server, command, tmp_path):
    flags = ["-n", "100000", "-meta", "STE", "--retries", "0"]
    (run,) = runs_of(command("R", *flags))
    server.start(command("R", *flags), tmp_path / "log")
    os.kill(until(lambda: process_of(run)), signal.SIGKILL)
    assert server.wait() == 1
    assert f"failed: {run}: its process was killed (-9) (1 of 1 run)" in (tmp_path / "log").read_text()


def test_a_run_without_its_base_model_stops_no_other(call_main, command, manifest, tmp_path):
    manifest.write_text(manifest.read_text().replace('ResNet8", quantizer = "BWN"', 'ResNet32", quantizer = "BWN"'))
    bases = tmp_path / "bases"
    bases.mkdir()
    torch.save(MODELS.load("ResNet8")(num_classes=2).state_dict(), bases / "ResNet8-NPZ-tiny-pretrain.pth")
    flags = ["-n", "1", "--pretrained-root", str(bases)]
    outcome = call_main(*command("R", *flags), program=SMALL_MAIN)
    assert outcome.code == 1
    (listed,) = [line for line in outcome.out.splitlines() if line.startswith("failed: ")]
    assert listed.startswith("failed: ResNet32 NPZ:")
    assert "there is no base model" in listed
    assert "'pretrain -m ResNet32" in listed
    assert states(runs_of(command("R", *flags))) == [State.DONE, State.MISSING]


def test_a_folder_that_cannot_be_made_is_a_failure(call_main, command, tmp_path):
    (tmp_path / "R").mkdir()
    (tmp_path / "R" / "ResNet8-NPZ-tiny").touch()
    outcome = call_main(*command("R"))
    assert outcome.code == 1
    listed = [line for line in outcome.out.splitlines() if line.startswith("failed: ResNet8 NPZ:")]
    assert len(listed) == 2
    assert all("Not a directory" in line for line in listed)
    assert outcome.err.splitlines()[-1].startswith("main.py: error: 2 of 2 runs failed")


def test_the_same_slice_run_twice_at_the_same_time_does_each_cell_once(server, another_server, command, tmp_path, tally):
    runs = runs_of(command("R"))
    server.start(command("R"), tmp_path / "first")
    another_server.start(command("R"), tmp_path / "second")
    assert (server.wait(), another_server.wait()) == (0, 0)
    assert states(runs) == [State.DONE, State.DONE]
    for run in runs:
        assert len(record(run)["sessions"]) == 1
        assert len((run.path / "loss.txt").read_text().splitlines()) == 6
    tally("a table run twice at the same time: each cell once")


def test_a_signal_stops_the_runs_gently(server, command, tmp_path):
    flags = ["-n", "100000", "--set", "checkpoint-every=100000", "--jobs", "2"]  # no checkpoint but the signal's
    runs = runs_of(command("R", *flags))
    server.start(command("R", *flags), tmp_path / "log")
    until(lambda: all((run.path / "loss.txt").exists() for run in runs))
    assert server.kill(signal.SIGINT) == 130
    assert "stopped by SIGINT; rerun the same command to resume" in (tmp_path / "log").read_text()
    assert states(runs) == [State.STOPPED] * 2
    assert all((run.path / "checkpoint.pth").exists() for run in runs)


def test_a_slurm_task_carries_its_slice_out_and_is_requeued(call_main, command, tmp_path):
    """Slurm itself is not here: bash runs the script as a task would, with a scontrol that notes what it is told."""
    flags = ["-n", "100000", "--set", "checkpoint-every=100000"]
    outcome = call_main(*command("R", *flags, "--engine", "slurm", "--dry-run"), program=SMALL_MAIN)
    assert outcome.code == 0
    assert "#SBATCH --array=1-2\n" in outcome.out
    assert "#SBATCH --requeue\n" in outcome.out
    script, noted, scontrol = tmp_path / "table.sbatch", tmp_path / "noted", tmp_path / "scontrol"
    script.write_text(outcome.out)
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {noted}\n')
    scontrol.chmod(0o755)
    first, second = runs_of(command("R", *flags))
    task_variables = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_JOB_ID": "77", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    task = subprocess.Popen(["bash", script], env=os.environ | task_variables)
    until(lambda: (second.path / "loss.txt").exists())
    task.terminate()  # as Slurm does before a task's time is over
    assert task.wait(60) == 143
    assert noted.read_text() == "requeue 77_2\n"
    assert states([first, second]) == [State.MISSING, State.STOPPED]
    assert (second.path / "checkpoint.pth").exists()


@needs_ray
def test_ray_carries_a_table_out(server, command, call_main, tmp_path):
    flags = ["--trials", "2"]
    expected = by_hand(runs_of(command("whole", *flags)), call_main)
    server.start(command("R", *flags, "--engine", "ray", "--jobs", "2"), tmp_path / "log")
    assert server.wait() == 0, (tmp_path / "log").read_text()
    assert logs_of(runs_of(command("R", *flags))) == expected


@needs_ray
def test_a_ray_cluster_that_is_not_there_is_one_clear_line(call_main, command):
    outcome = call_main(*command("R", "--engine", "ray", "--address", "ray-is-not-there"))
    assert outcome.code == 2
    assert "--engine ray" in outcome.err.splitlines()[-1]
    assert "ray-is-not-there" in outcome.err.splitlines()[-1]


@needs_ray
@pytest.mark.slow
def test_a_signal_stops_rays_runs_gently(command, tmp_path):
    """Started as a shell starts what stands before an &, with SIGINT ignored, by which Ray interrupts its tasks."""
    flags = ["-n", "100000", "--set", "checkpoint-every=100000", "--engine", "ray", "--jobs", "1"]
    runs = runs_of(command("R", *flags))
    argv = shlex.join([sys.executable, str(SMALL_MAIN), *command("R", *flags)])
    driver = subprocess.Popen(["bash", "-c", f"trap '' INT; exec {argv}"])
    until(lambda: (runs[0].path / "loss.txt").exists())
    driver.terminate()
    assert driver.wait(40) == 143
    assert states(runs) == [State.STOPPED, State.MISSING]
    assert (runs[0].path / "checkpoint.pth").exists()


def parent_of(process):
    """The parent's process id; None where there is no such process."""
    stat = Path(f"/proc/{process}/stat")
    return int(stat.read_text().rsplit(")", 1)[1].split()[1]) if process and stat.exists() else None


@needs_ray
@pytest.mark.slow
def test_a_ray_worker_and_a_whole_node_are_lost(server, command, call_main, tmp_path, tally):
    """Two nodes of one CPU each; what is lost with them is resumed on the other, and the numbers are those of no loss."""
    from ray.cluster_utils import Cluster

    flags = ["-n", "10", "--trials", "2", "--set", "checkpoint-every=1it"]
    expected = by_hand(runs_of(command("whole", *flags)), call_main)
    runs = runs_of(command("R", *flags))
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick})
    first, second = (cluster.add_node(num_cpus=1) for _ in range(2))
    lost = []

    def in_the_middle(node):
        """A run that a worker of this node has brought to a checkpoint and not to its end, and its worker."""
        (raylet,) = (found.process.pid for found in node.all_processes["raylet"])
        for run in runs:
            worker = parent_of(process_of(run))
            if (run.path / "checkpoint.pth").exists() and parent_of(worker) == raylet:
                return run, worker
        return None

    try:
        server.start(command("R", *flags, "--engine", "ray", "--address", cluster.address), tmp_path / "log")
        run, worker = until(lambda: in_the_middle(first))
        lost.append(run)
        os.kill(worker, signal.SIGKILL)
        os.kill(process_of(run), signal.SIGKILL)
        run, _ = until(lambda: in_the_middle(second))
        lost.append(run)
        cluster.remove_node(second, allow_graceful=False)
        os.kill(process_of(run), signal.SIGKILL)
        assert server.wait() == 0, (tmp_path / "log").read_text()
    finally:
        cluster.shutdown()
    assert logs_of(runs) == expected
    for run in lost:
        assert len(record(run)["sessions"]) > 1
    assert [len(record(run)["sessions"]) for run in runs if run not in lost] == [1] * (4 - len(set(lost)))
    tally("a Ray worker lost, then a node: the table is completed")
