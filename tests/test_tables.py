"""main.py tables: what it selects and refuses; tables that are really run, with processes and with Ray, and really disturbed."""

import argparse
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import PROJECT, Server, until

from main import COMMANDS
from utils.engines import local_slots
from utils.miscellaneous import BadInput
from utils.options import build_parser, parse_training
from utils.run_record import run_path
from utils.tables import State, select_runs

LOGS = ("loss.txt", "train-acc.txt", "test-acc.txt", "lr.txt")
TINY = """
trials = 1
[settings]
epochs = 3
batch-size = 4
[tables.tiny]
dataset = "{set}"
cells = [
  {{ model = "ResNet20", quantizer = "dorefa", backward = "STE",     optimizer = "SGD", published = "50.000 (1.000)" }},
  {{ model = "ResNet20", quantizer = "BWN",    backward = "FC-Grad", optimizer = "SGD" }},
]
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums over other numbers of threads are rounded otherwise, and runs side by side have fewer than this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def manifest(tmp_path, tiny_set):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(set=tiny_set))
    return path


@pytest.fixture
def command(manifest, tmp_path):
    """command(root, *flags): runs the tiny table into a folder, from scratch."""

    def build(root, *flags, action="run"):
        where = ["--results-root", str(tmp_path / root), "--pretrained-root", "none"]
        return ["tables", action, "tiny", "--manifest", str(manifest), *where, *flags]

    return build


def runs_of(argv):
    return select_runs(build_parser(COMMANDS).parse_args(argv), parse_training)


def by_hand(runs, call_main):
    """Trains the runs in this process; returns each folder's logs."""
    for run in runs:
        outcome = call_main(*run.argv)
        assert outcome.code == 0, outcome.err
    return logs_of(runs)


def logs_of(runs):
    return {run.path.name: [(run.path / name).read_bytes() for name in LOGS] for run in runs}


def record(run):
    return json.loads((run.path / "run.json").read_text())


def states(runs):
    return [run.state()[0] for run in runs]


# --- what is selected ---


def test_selection():
    def count(*flags):
        return len(runs_of(["tables", "run", *flags]))

    assert count("all") == 350  # Figure 3's runs are Table 1's
    assert count("fig3") == count("table1", "-m", "ResNet20", "-q", "dorefa") == 40
    assert count("table1", "fig3") == 210
    assert count("table2", "-m", "ResNet110", "-q", "BWN", "-o", "SGD", "Adam", "-meta", "STE", "--trials", "2") == 4
    assert count("table1", "-meta", "STE", "FC-Grad", "--trial", "2", "5") == 48
    assert {run.trial for run in runs_of(["tables", "run", "table1", "--trials", "7", "--trial", "6", "9"])} == {6}


def test_the_command_lines_settings_go_over_the_manifests(monkeypatch):
    monkeypatch.delenv("METAQUANT_PRETRAINED", raising=False)
    flags = ["-n", "7", "--set", "lr-adjust=2", "deterministic=true", "--results-root", "R", "--data-root", "D"]
    for run in runs_of(["tables", "run", "table2", *flags]):
        s = run.settings
        assert (s["epochs"], s["lr_adjust"], s["deterministic"], s["results_root"], s["data_root"]) == (7, 2, True, "R", "D")
        assert s["pretrained"] == f"R/{s['model']}-CIFAR100/{s['model']}-CIFAR100-pretrain.pth"
        assert parse_training(run.argv[1:], "again") == s
        assert run.path == run_path(s)


def test_slices_share_the_runs_out():
    whole = [run.path for run in runs_of(["tables", "run", "all"])]
    slices = [[run.path for run in runs_of(["tables", "run", "all", "--slice", f"{i}/3"])] for i in (1, 2, 3)]
    assert sorted(path for part in slices for path in part) == sorted(whole)
    assert [len(part) for part in slices] == [117, 117, 116]


def test_base_models_lie_where_they_were_released_or_made(tmp_path):
    flags = ["tables", "run", "table1", "--trials", "1", "--results-root", "R", "--pretrained-root", str(tmp_path)]
    released = tmp_path / "ResNet20-CIFAR10-pretrain.pth"
    made = tmp_path / "ResNet32-CIFAR10" / "ResNet32-CIFAR10-pretrain.pth"
    made.parent.mkdir()
    for path in (released, made):
        path.touch()
    found = {run.row.cell.model: run.settings["pretrained"] for run in runs_of(flags)}
    own = "R/ResNet44-CIFAR10/ResNet44-CIFAR10-pretrain.pth"
    assert found == {"ResNet20": str(released), "ResNet32": str(made), "ResNet44": own}


def test_dry_run_prints_the_commands(call_main, command, tmp_path):
    outcome = call_main(*command("R", "--dry-run", "--trials", "2"))
    assert outcome.code == 0
    lines = [shlex.split(line) for line in outcome.out.splitlines()]
    assert [line[:3] for line in lines] == [[sys.executable, str(PROJECT / "main.py"), "train"]] * 4
    assert [build_parser(COMMANDS).parse_args(line[2:]).trial for line in lines] == [1, 1, 2, 2]
    assert not (tmp_path / "R").exists()


BAD_INPUT = [  # flags, words that the one line must hold
    (["tables", "run", "table3"], ["table3", "table1, table2, fig3"]),
    (["tables", "run"], ["TABLE"]),
    (["tables", "walk", "table1"], ["walk", "status"]),
    (["tables", "run", "table1", "-m", "ResNet56"], ["no cell of table1", "--model ResNet56"]),
    (["tables", "run", "table1", "-q", "BWN", "-meta", "MultiFC"], ["no cell", "--quantizer BWN", "--backward MultiFC"]),
    (["tables", "run", "table1", "-m", "ResNet21"], ["ResNet21"]),
    (["tables", "run", "table1", "--trial", "6"], ["--trial 6", "1 to 5"]),
    (["tables", "run", "table1", "--slice", "0/4"], ["--slice", "'0/4'"]),
    (["tables", "run", "table1", "--slice", "5/4"], ["--slice", "'5/4'"]),
    (["tables", "run", "table1", "--slice", "2"], ["--slice", "I/N", "'2'"]),
    (["tables", "run", "fig3", "--slice", "1/99"], ["--slice 1/99", "40 runs"]),
    (["tables", "run", "table1", "--protocol", "mine"], ["--protocol", "mine", "paper"]),
    (["tables", "run", "table1", "--engine", "pbs"], ["--engine", "pbs", "slurm"]),
    (["tables", "run", "table1", "--engine", "slurm"], ["--engine slurm", "--dry-run"]),
    (["tables", "run", "table1", "--engine", "slurm", "--dry-run", "--slice", "1/2"], ["--slice"]),
    (["tables", "run", "table1", "--set", "epochs"], ["--set", "'epochs'"]),
    (["tables", "run", "table1", "--set", "model=ResNet56"], ["--set model"]),
    (["tables", "run", "table1", "--set", "speed=9"], ["ResNet20 CIFAR10 dorefa STE SGD", "--speed"]),
    (["tables", "run", "table1", "--set", "batch-size=0"], ["ResNet20 CIFAR10", "-bs/--batch-size", "'0'"]),
    (["tables", "run", "table1", "--jobs", "0"], ["--jobs", "at least 1"]),
    (["tables", "run", "table1", "--manifest", "{root}/absent.toml"], ["--manifest", "absent.toml", "No such file"]),
    (["tables", "run", "table1", "--manifest", "{file}"], ["--manifest", "line 1"]),
    (
        ["tables", "run", "table2", "--pretrained-root", "{root}"],
        ["ResNet56 CIFAR100", "main.py pretrain -m ResNet56"],
    ),
    (
        ["tables", "run", "fig3", "--pretrained-root", "none", "--engine", "ray", "--address", "ray-is-not-there"],
        ["--engine ray"],
    ),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT, ids=lambda x: " ".join(x)[-60:])
def test_bad_input_is_one_clear_line(arguments, words, refuses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses([argument.format(root=tmp_path, file=__file__) for argument in arguments], words)


def test_an_unknown_model_in_a_manifest_is_named(call_main, command, manifest):
    manifest.write_text(manifest.read_text().replace('ResNet20", quantizer = "BWN"', 'ResNet21", quantizer = "BWN"'))
    outcome = call_main(*command("R"))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert f"--manifest {manifest}, ResNet21 NPZ:" in line


# --- where it runs ---


@pytest.mark.parametrize(
    ("flags", "gpus", "slots"),
    [
        ([], ["0", "1"], ["0", "1"]),
        (["--trials-per-device", "2"], ["0", "1"], ["0", "1", "0", "1"]),
        (["--trials-per-device", "2", "--jobs", "3"], ["4", "7"], ["4", "7", "4"]),
        (["--jobs", "3"], [], [None] * 3),
        (["--trials-per-device", "2"], [], [None] * 2),
        ([], [], [None]),
    ],
)
def test_slots_spread_over_the_gpus_and_share_the_cores(flags, gpus, slots, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    args = build_parser(COMMANDS).parse_args(["tables", "run", "table1", *flags])
    found = local_slots(args, gpus)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in found] == slots
    threads = max(1, len(os.sched_getaffinity(0)) // len(slots))
    assert {slot["OMP_NUM_THREADS"] for slot in found} == {str(threads)}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert all("OMP_NUM_THREADS" not in slot for slot in local_slots(args, gpus))
    args.cpus_per_run = 3
    assert {slot["OMP_NUM_THREADS"] for slot in local_slots(args, gpus)} == {"3"}


def test_more_jobs_than_the_gpus_take_are_refused():
    args = argparse.Namespace(jobs=3, trials_per_device=1, cpus_per_run=None)
    with pytest.raises(BadInput, match="--jobs 3: 2 GPUs with --trials-per-device 1 take 2"):
        local_slots(args, ["0", "1"])


# --- how far it is ---


def test_status_tells_every_state(call_main, command, tmp_path):
    flags = ["--trials", "3"]
    runs = runs_of(command("R", *flags))
    assert states(runs) == [State.MISSING] * 6
    by_hand(runs[:5], call_main)
    changes = ({}, {"state": "failed", "error": "it broke"}, {"state": "running"}, {"state": "running"})
    for run, change in zip(runs, changes, strict=False):
        (run.path / "run.json").write_text(json.dumps(record(run) | change))
    other = record(runs[4])
    other["settings"]["epochs"] = 9
    (runs[4].path / "run.json").write_text(json.dumps(other))
    held = runs[3].path / "run.lock"
    hold = f"import fcntl, time; f = open({str(held)!r}, 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        outcome = call_main(*command("R", *flags, action="status"))
    finally:
        holder.kill()
        holder.wait()
    assert outcome.code == 0
    header, _, first, second, total, _, *reasons = outcome.out.splitlines()
    columns = [name.strip() for name in header.split("|")[3:-1]]
    assert columns == ["done", "running", "cut off", "failed", "refused", "missing"]
    assert [cell.strip() for cell in first.split("|")[2:-1]] == ["50.000 (1.000)", "1", "", "1", "", "1", ""]
    assert [cell.strip() for cell in second.split("|")[2:-1]] == ["", "", "1", "", "1", "", "1"]
    assert [cell.strip() for cell in total.split("|")[1:-1]] == ["6 runs", "", "1", "1", "1", "1", "1", "1"]
    assert len(reasons) == 2
    assert reasons[0].startswith("failed: ResNet20 NPZ:")
    assert reasons[0].endswith("it broke")
    assert "epochs 9 there and 3 here" in reasons[1]
    (runs[0].path / "run.json").write_text("{")
    assert runs[0].state()[0] is State.REFUSED


# --- tables that are really run ---


@pytest.fixture(scope="module")
def servers(one_thread):
    """Two processes from which main.py can be forked at the same time."""
    found = [Server(), Server()]
    yield found
    for server in found:
        server.process.stdin.close()
        assert server.process.wait(10) == 0


def process_of(run):
    """The process that holds a run's lock; None where nobody does."""
    lock = run.path / "run.lock"
    words = lock.read_text().split() if lock.exists() else []
    return int(words[1]) if words else None


def test_a_failure_stops_nothing_and_a_killed_run_is_resumed(servers, command, call_main, manifest, tmp_path, tally):
    """Three cells side by side: one whose loss is not finite, one that is killed in the middle, one left alone."""
    fails = '{ model = "ResNet20", quantizer = "dorefa", backward = "FC-Grad", optimizer = "SGD" },\n]'
    rule = '[[rules]]\nwhy = "to fail"\nwhen = { backward = "FC-Grad", quantizer = "dorefa" }\nset = { init-lr = 1e38 }\n'
    manifest.write_text(f"{manifest.read_text().rstrip().removesuffix(']')}{fails}\n{rule}")
    flags = ["-n", "12", "--set", "checkpoint-every=1it", "--jobs", "3"]
    good = by_hand(runs_of(command("whole", *flags))[:2], call_main)
    runs = runs_of(command("R", *flags))
    servers[0].start(command("R", *flags), tmp_path / "log")
    until(lambda: (runs[0].path / "checkpoint.pth").exists())
    os.kill(process_of(runs[0]), signal.SIGKILL)
    assert servers[0].wait() == 1
    output = (tmp_path / "log").read_text()
    assert f"again: {runs[0]}: its process was killed (-9)" in output
    assert f"failed: {runs[2]}: main.py: error: the training loss is " in output
    assert output.rstrip().endswith("main.py: error: 1 of 3 runs failed; the same command tries them again")
    assert states(runs) == [State.DONE, State.DONE, State.FAILED]
    assert logs_of(runs[:2]) == good
    assert "going on after" in (runs[0].path / "output.log").read_text()
    tally("a table's run killed: the table resumes it")


def test_a_folder_that_cannot_be_made_is_a_failure(call_main, command, tmp_path):
    (tmp_path / "R").touch()
    outcome = call_main(*command("R"))
    assert outcome.code == 1
    listed = [line for line in outcome.out.splitlines() if line.startswith("failed: ResNet20 NPZ:")]
    assert len(listed) == 2
    assert all("Not a directory" in line for line in listed)
    assert outcome.err.splitlines()[-1].startswith("main.py: error: 2 of 2 runs failed")


def test_the_same_slice_run_twice_at_the_same_time_does_each_cell_once(servers, command, tmp_path, tally):
    runs = runs_of(command("R"))
    for server, log in zip(servers, ("first", "second"), strict=True):
        server.start(command("R"), tmp_path / log)
    assert [server.wait() for server in servers] == [0, 0]
    assert states(runs) == [State.DONE, State.DONE]
    for run in runs:
        assert len(record(run)["sessions"]) == 1
        assert len((run.path / "loss.txt").read_text().splitlines()) == 6
    tally("a table run twice at the same time: each cell once")


def test_a_signal_stops_the_runs_gently(servers, command, tmp_path):
    flags = ["-n", "100000", "--set", "checkpoint-every=100000", "--jobs", "2"]  # no checkpoint but the signal's
    runs = runs_of(command("R", *flags))
    servers[0].start(command("R", *flags), tmp_path / "log")
    until(lambda: all((run.path / "loss.txt").exists() for run in runs))
    assert servers[0].kill(signal.SIGINT) == 130
    assert "stopped by SIGINT; the same command goes on from here" in (tmp_path / "log").read_text()
    assert states(runs) == [State.STOPPED] * 2
    assert all((run.path / "checkpoint.pth").exists() for run in runs)


def test_a_slurm_task_carries_its_slice_out_and_is_requeued(call_main, command, tmp_path):
    """Slurm itself is not here: bash runs the script as a task would, with a scontrol that notes what it is told."""
    flags = ["-n", "100000", "--set", "checkpoint-every=100000"]
    outcome = call_main(*command("R", *flags, "--engine", "slurm", "--dry-run"))
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


# --- on Ray ---

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (requirements-ray.txt)")


@needs_ray
def test_ray_carries_a_table_out(servers, command, call_main, tmp_path):
    flags = ["--trials", "2"]
    expected = by_hand(runs_of(command("whole", *flags)), call_main)
    servers[0].start(command("R", *flags, "--engine", "ray", "--jobs", "2"), tmp_path / "log")
    assert servers[0].wait() == 0, (tmp_path / "log").read_text()
    assert logs_of(runs_of(command("R", *flags))) == expected


@needs_ray
@pytest.mark.slow
def test_a_signal_stops_rays_runs_gently(command, tmp_path):
    """Started as a shell starts what stands before an &, with SIGINT ignored, by which Ray interrupts its tasks."""
    flags = ["-n", "100000", "--set", "checkpoint-every=100000", "--engine", "ray", "--jobs", "1"]
    runs = runs_of(command("R", *flags))
    argv = shlex.join([sys.executable, str(PROJECT / "main.py"), *command("R", *flags)])
    driver = subprocess.Popen(["bash", "-c", f"trap '' INT; exec {argv}"])
    until(lambda: (runs[0].path / "loss.txt").exists(), 60)
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
def test_a_ray_worker_and_a_whole_node_are_lost(servers, command, call_main, tmp_path, tally):
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
        servers[0].start(command("R", *flags, "--engine", "ray", "--address", cluster.address), tmp_path / "log")
        until(lambda: in_the_middle(first), 60)
        run, worker = in_the_middle(first)
        lost.append(run)
        os.kill(worker, signal.SIGKILL)
        os.kill(process_of(run), signal.SIGKILL)
        until(lambda: in_the_middle(second), 60)
        run, _ = in_the_middle(second)
        lost.append(run)
        cluster.remove_node(second, allow_graceful=False)
        os.kill(process_of(run), signal.SIGKILL)
        assert servers[0].wait() == 0, (tmp_path / "log").read_text()
    finally:
        cluster.shutdown()
    assert logs_of(runs) == expected
    for run in lost:
        assert len(record(run)["sessions"]) > 1
    assert [len(record(run)["sessions"]) for run in runs if run not in lost] == [1] * (4 - len(set(lost)))
    tally("a Ray worker lost, then a node: the table is completed")
