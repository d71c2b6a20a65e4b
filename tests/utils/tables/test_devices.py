"""Runs that take turns on GPUs ask for one; runs on the CPU do not."""

import sys
from types import SimpleNamespace

import pytest
from table_runs import runs_of

from utils.errors import BadInput
from utils.tables.engines import RayEngine


@pytest.fixture
def script(call_main, command):
    """script(*flags): the lines of the Slurm script of four runs."""

    def call(*flags):
        outcome = call_main(*command("R", "--trials", "2", "--engine", "slurm", "--dry-run", *flags))
        assert outcome.code == 0, outcome.err
        return outcome.out.splitlines()

    return call


def test_a_slurm_task_asks_for_a_gpu_only_where_a_run_wants_one(script, manifest):
    assert "#SBATCH --gpus=1" in script()
    assert "#SBATCH --gpus=1" in script("--set", "device=cuda")
    on_the_cpu = script("--set", "device=cpu")
    assert not any("gpu" in line.lower() for line in on_the_cpu)
    assert [line for line in script() if line != "#SBATCH --gpus=1"] == [
        line.replace(" --set device=cpu", "") for line in on_the_cpu
    ]
    rule = '[[rules]]\nwhy = "small"\nwhen = { backward = "STE" }\nset = { device = "cpu" }\n'
    manifest.write_text(manifest.read_text().replace("[tables.tiny]", f"{rule}[tables.tiny]"))
    assert "#SBATCH --gpus=1" in script()  # for FC-Grad
    assert "#SBATCH --gpus=1" not in script("-meta", "STE")


def test_a_slurm_script_says_how_many_runs_a_task_carries_out_at_once(script):
    def about(*flags):
        lines = script(*flags)
        (said,) = [line for line in lines if "at once" in line]
        (cpus,) = [line for line in lines if "--cpus-per-task" in line]
        return said.partition(" Partition")[0], cpus.partition("=")[2]

    assert about() == ("# 4 runs in 4 slices, an array task each; a task carries out 1 at once.", "1")
    assert about("--trials-per-device", "4") == ("# 4 runs in 1 slice, an array task each; a task carries out 4 at once.", "4")
    assert about("--trials-per-device", "4", "--jobs", "2", "--cpus-per-run", "3") == (
        "# 4 runs in 1 slice, an array task each; a task carries out 2 at once.",
        "6",
    )


def test_more_jobs_than_a_slurm_task_has_runs_are_refused(refuses):
    flags = [
        "--pretrained-root",
        "none",
        "--engine",
        "slurm",
        "--dry-run",
        "--set",
        "device=cpu",
        "--jobs",
        "3",
        "--trials-per-device",
        "2",
    ]
    refuses(["tables", "run", "table1", *flags], ["--jobs 3: at most 2, the runs of a task"])


class Cluster:
    """Of Ray, what an engine calls; notes what each task asks for. Ray itself is tried in test_running.py, without a GPU."""

    def __init__(self, fault="", gpus=2.0):
        self.asked, self.fault, self.gpus = [], fault, gpus
        self.cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)

    def init(self, address, **options):
        if self.fault:
            raise RuntimeError(self.fault)

    def cluster_resources(self):
        return {"CPU": 8.0, "GPU": self.gpus}

    def nodes(self):
        return [{"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 8.0), (False, 2.0), (True, 6.0))] + [
            {"Alive": True, "Resources": {}}
        ]

    def _start(self, asked):
        self.asked.append(asked)
        return object()

    def remote(self, **options):
        return lambda function: SimpleNamespace(
            options=lambda **more: SimpleNamespace(remote=lambda *arguments: self._start(options | more))
        )


def test_a_run_on_the_cpu_holds_no_share_of_rays_gpus(command, monkeypatch):
    cluster = Cluster()
    monkeypatch.setitem(sys.modules, "ray", cluster)
    engine = RayEngine(None, jobs=None, trials_per_device=4, cpus=2, retries=3)
    for device in ("auto", "cuda", "cpu"):
        engine.start(runs_of(command("R", "-meta", "STE", "--set", f"device={device}"))[0])
    assert [asked["num_gpus"] for asked in cluster.asked] == [0.25, 0.25, 0]
    assert {asked["num_cpus"] for asked in cluster.asked} == {2}


@pytest.mark.parametrize(
    ("jobs", "cpus", "gpus", "on_cpu", "at_once", "each"),
    [
        (None, None, 0, False, 6, 2),
        (None, None, 2, True, 6, 2),
        (None, 5, 0, False, 6, 5),
        (5, None, 0, False, 5, 1),
        (5, 3, 2, True, 5, 3),
        (None, None, 2, False, 20, 1),
    ],
)
def test_rays_runs_on_the_cpu_share_the_nodes(jobs, cpus, gpus, on_cpu, at_once, each, command, monkeypatch):
    """Two nodes with CPUs are alive, the smaller one with 6. On GPUs Ray itself queues what does not fit."""
    cluster = Cluster(gpus=gpus)
    monkeypatch.setitem(sys.modules, "ray", cluster)
    engine = RayEngine(None, jobs=jobs, trials_per_device=3, cpus=cpus, retries=0, on_cpu=on_cpu)
    device = "cpu" if on_cpu else "auto"
    (run, *_) = runs_of(command("R", "-meta", "STE", "--set", f"device={device}"))
    while engine.has_room and engine.active < 20:
        engine.start(run)
    assert engine.active == at_once
    assert {asked["num_cpus"] for asked in cluster.asked} == {each}
    spread = {asked.get("scheduling_strategy") for asked in cluster.asked}
    assert spread == ({"SPREAD"} if on_cpu or not gpus else {None})


@pytest.mark.parametrize(("address", "where"), [(None, "--engine ray"), ("there", "--engine ray, --address there")])
def test_the_address_of_a_cluster_that_does_not_answer_is_named_where_there_is_one(address, where, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Cluster("it is full"))
    with pytest.raises(BadInput, match=f"^{where}: it is full$"):
        RayEngine(address, None, 1, 1, 0)
