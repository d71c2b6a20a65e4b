"""main.py tables: what it selects and refuses, where it runs, how far it is."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import PROJECT
from parsed import parsed, train_settings
from table_runs import by_hand, record, runs_of, states

from utils.errors import BadInput
from utils.run.folder.name import run_path
from utils.tables import engines
from utils.tables.engines import local_slots
from utils.tables.options import EngineOptions, Selection
from utils.tables.scheduler import Progress
from utils.tables.selection import State, select_runs, without_base_model
from utils.tables.slurm import slurm_script


def test_selection():
    def count(*flags):
        return len(runs_of(["tables", "run", *flags]))

    assert count("all") == 350  # Figure 3's runs are Table 1's
    assert count("fig3") == count("table1", "-m", "ResNet20", "-q", "dorefa") == 40
    assert count("table1", "fig3") == 210
    assert count("table2", "-m", "ResNet110", "-q", "BWN", "-o", "SGD", "Adam", "-meta", "STE", "--trials", "2") == 4
    assert count("table1", "-meta", "STE", "FC-Grad", "--trial", "2", "5") == 48
    assert {run.trial for run in runs_of(["tables", "run", "table1", "--trials", "7", "--trial", "6", "7"])} == {6, 7}


def test_the_command_lines_settings_go_over_the_manifests(monkeypatch):
    monkeypatch.delenv("METAQUANT_PRETRAINED", raising=False)
    flags = ["-n", "7", "--set", "lr-adjust=2", "deterministic=true", "--results-root", "R", "--data-root", "D"]
    for run in runs_of(["tables", "run", "table2", *flags]):
        s = run.settings
        assert (s.epochs, s.lr_adjust, s.deterministic, s.results_root, s.data_root) == (7, 2, True, "R", "D")
        assert s.pretrained == f"R/{s.model}-CIFAR100/{s.model}-CIFAR100-pretrain.pth"
        assert train_settings(run.command[3:]) == s
        assert run.path == run_path(s)


def test_phi_takes_the_place_of_the_manifests_start_of_m(tmp_path):
    flags = ["-m", "ResNet20", "-q", "BWN", "-o", "SGD", "-meta", "FC-Grad", "--trials", "1"]
    (run,) = runs_of(["tables", "run", "table1", *flags])
    (other,) = runs_of(["tables", "run", "table1", *flags, "--set", f"phi={tmp_path}", "exp-spec=with-phi"])
    assert (run.settings.meta_init, other.settings.meta_init, other.settings.phi) == ("identity", None, str(tmp_path))
    with pytest.raises(BadInput, match="--phi and --meta-init random exclude each other"):
        runs_of(["tables", "run", "table1", *flags, "--set", f"phi={tmp_path}", "meta-init=random"])


def test_nets_of_torchvision_and_layers_in_full_precision_in_a_table(tmp_path, monkeypatch):
    monkeypatch.delenv("METAQUANT_PRETRAINED", raising=False)
    cell = '{ model = "torchvision:resnet18", quantizer = "BWN", backward = "STE", optimizer = "SGD" }'
    manifest = tmp_path / "m.toml"
    manifest.write_text(f'[settings]\nkeep = ["fc", "conv1"]\n[tables.mine]\ndataset = "CIFAR10"\ncells = [{cell}]\n')
    command = ["tables", "run", "mine", "--manifest", str(manifest), "--results-root", "R", "-m", "torchvision:resnet18"]
    (run,) = runs_of(command)
    assert run.settings.keep == ("conv1", "fc")
    assert train_settings(run.command[3:]) == run.settings
    assert run.settings.pretrained == "R/torchvision-resnet18-CIFAR10/torchvision-resnet18-CIFAR10-pretrain.pth"
    folder, kind, name = run.path.parts[1:]
    assert (folder, kind) == ("torchvision-resnet18-CIFAR10", "runs-Quant")
    assert name == "Baseline-BWN-optimizer-SGD-1bits-lr-30-keep-conv1+fc-trial-1"
    base = tmp_path / "torchvision-resnet18-CIFAR10-pretrain.pth"
    base.touch()
    (run,) = runs_of([*command, "--pretrained-root", str(tmp_path), "--set", "keep=*.downsample.* fc"])
    assert run.settings.keep == ("*.downsample.*", "fc")
    assert run.settings.pretrained == str(base)
    manifest.write_text(manifest.read_text().replace("resnet18", ""))
    with pytest.raises(BadInput, match=r"-m/--model: must be one of ResNet20.* not 'torchvision:'"):
        runs_of(command[:-2])


def test_a_slurm_task_is_told_what_the_command_was_told():
    told = {"model": ["ResNet20"], "trial": [1, 2], "epochs": 3, "set": [("batch-size", "64")], "protocol": "paper"}
    selection = Selection(tables=["table1", "fig3"], **told)
    options = EngineOptions(engine="slurm", dry_run=True, trials_per_device=2, cpus_per_run=3, retries=1)
    script = slurm_script(selection, options, select_runs(selection)[:5])
    assert "#SBATCH --array=1-3\n" in script
    assert "#SBATCH --cpus-per-task=6\n" in script
    (line,) = [line for line in script.splitlines() if " tables run " in line]
    command, rest = line.split(" --slice ")
    assert rest == '"$SLURM_ARRAY_TASK_ID/3" &'
    task = parsed(shlex.split(command)[2:])
    assert Selection.of(task) == selection
    assert EngineOptions.of(task) == replace(options, engine="local", dry_run=False)


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
    found = {run.row.cell.model: run.settings.pretrained for run in runs_of(flags)}
    own = "R/ResNet44-CIFAR10/ResNet44-CIFAR10-pretrain.pth"
    assert found == {"ResNet20": str(released), "ResNet32": str(made), "ResNet44": own}


def test_dry_run_prints_the_commands(call_main, command, tmp_path):
    outcome = call_main(*command("R", "--dry-run", "--trials", "2"))
    assert outcome.code == 0
    lines = [shlex.split(line) for line in outcome.out.splitlines()]
    assert [line[:3] for line in lines] == [[sys.executable, str(PROJECT / "main.py"), "train"]] * 4
    assert [parsed(line[2:]).trial for line in lines] == [1, 1, 2, 2]
    assert not (tmp_path / "R").exists()


def test_output_that_nobody_reads_on_is_no_error():
    command = [sys.executable, "main.py", "tables", "run", "all", "--dry-run"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "pipesize": 4096}  # far less than what is printed
    with subprocess.Popen(command, cwd=PROJECT, text=True, **pipes) as process:
        assert process.stdout.readline().endswith("\n")
        process.stdout.close()
        error = process.stderr.read()
    assert (process.returncode, error) == (141, "")


BAD_INPUT = [  # flags, words that the one line must hold
    (["tables", "run", "table3"], ["table3", "table1, table2, fig3"]),
    (["tables", "run"], ["TABLE"]),
    (["tables", "walk", "table1"], ["walk", "status"]),
    (["tables", "run", "table1", "-m", "ResNet56"], ["no cell of table1", "--model ResNet56"]),
    (["tables", "run", "table1", "-q", "BWN", "-meta", "MultiFC"], ["no cell", "--quantizer BWN", "--backward MultiFC"]),
    (
        ["tables", "run", "table1", "-m", "ResNet20", "ResNet21"],
        ["no cell of table1", "--model ResNet21", "there are ResNet20, ResNet32, ResNet44"],
    ),
    (["tables", "run", "table1", "--set", "deterministic=yes"], ["--deterministic", "true or false", "'yes'"]),
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
    (["tables", "run", "table1", "--set", "speed=9"], ["ResNet20 CIFAR10 dorefa SGD STE", "--speed"]),
    (["tables", "run", "table1", "--set", "batch-size=0"], ["ResNet20 CIFAR10", "-bs/--batch-size", "'0'"]),
    (["tables", "run", "table1", "--jobs", "0"], ["--jobs", "from 1"]),
    (["tables", "run", "table1", "--manifest", "{root}/absent.toml"], ["--manifest", "absent.toml", "No such file"]),
    (["tables", "run", "table1", "--manifest", "{file}"], ["--manifest", "line 1"]),
    (
        ["tables", "run", "table2", "--pretrained-root", "{root}"],
        ["ResNet56 CIFAR100", "'pretrain -m ResNet56"],
    ),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_INPUT, ids=lambda x: " ".join(x)[-60:])
def test_bad_input_is_one_clear_line(arguments, words, refuses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuses([argument.format(root=tmp_path, file=__file__) for argument in arguments], words)


def test_an_unknown_model_in_a_manifest_is_named(call_main, command, manifest):
    manifest.write_text(manifest.read_text().replace('ResNet8", quantizer = "BWN"', 'ResNet21", quantizer = "BWN"'))
    outcome = call_main(*command("R"))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert f"--manifest {manifest}, ResNet21 NPZ:" in line


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
    options = EngineOptions.of(parsed(["tables", "run", "table1", *flags]))
    found = local_slots(options, gpus)
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in found] == slots
    threads = max(1, len(os.sched_getaffinity(0)) // len(slots))
    assert {slot["OMP_NUM_THREADS"] for slot in found} == {str(threads)}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert all("OMP_NUM_THREADS" not in slot for slot in local_slots(options, gpus))
    assert {slot["OMP_NUM_THREADS"] for slot in local_slots(replace(options, cpus_per_run=3), gpus)} == {"3"}


@pytest.mark.parametrize(("device", "gpus"), [("auto", ["0", "1"]), ("cuda", ["0", "1"]), ("cuda:1", [None]), ("cpu", [None])])
def test_runs_on_a_device_by_its_number_are_not_spread(device, gpus, monkeypatch):
    """A run that saw another GPU alone would look for it in vain."""
    monkeypatch.setattr(engines, "visible_gpus", lambda: ["0", "1"])
    made = engines.make_engine(EngineOptions(), runs_of(["tables", "run", "table1", "--set", f"device={device}"]))
    assert [slot.get("CUDA_VISIBLE_DEVICES") for slot in made.slots] == gpus


def test_more_jobs_than_the_gpus_take_are_refused():
    with pytest.raises(BadInput, match=r"--jobs 3: at most 2 \(2 GPUs, --trials-per-device 1\)"):
        local_slots(EngineOptions(jobs=3), ["0", "1"])


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
    assert reasons[0].startswith("failed: ResNet8 NPZ:")
    assert reasons[0].endswith("it broke")
    assert "epochs 9 there and 3 here" in reasons[1]
    (runs[0].path / "run.json").write_text("{")
    assert runs[0].state()[0] is State.REFUSED


def test_epochs_that_were_not_run_are_not_counted(call_main, command, tmp_path):
    runs = runs_of(command("R", "-n", "8", "--trials", "2"))
    whole = {"settings": runs[0].settings.as_dict(), "state": "done", "epochs_done": 8, "result": {}}
    records = [
        whole,
        whole | {"settings": runs[1].settings.as_dict(), "epochs_done": 3, "ended_early": "alpha fell below 1e-06"},
        whole | {"settings": runs[2].settings.as_dict(), "state": "running", "epochs_done": 2},
    ]
    for run, content in zip(runs, records, strict=False):
        run.path.mkdir(parents=True)
        (run.path / "run.json").write_text(json.dumps(content))
    assert [run.epochs() for run in runs] == [(8, 8), (3, 3), (2, 8), (0, 8)]
    progress = Progress(runs)
    assert (progress._before, progress._bar.total) == (13, 27)
    (runs[2].path / "run.json").write_text(json.dumps(records[2] | {"state": "done"}))
    progress.conclude(runs[2], "done")
    progress.refresh()
    assert (progress._bar.n, progress._bar.total) == (13, 21)
    lines = call_main(*command("R", "-n", "8", "--trials", "2", action="status")).out.splitlines()
    assert [line.removeprefix(f"done: {run}: ") for line, run in zip(lines[-2:], runs[1:3], strict=True)] == [
        "3 of 8 epochs: alpha fell below 1e-06",
        "2 of 8 epochs: the reason was not recorded",
    ]


def test_a_run_with_a_checkpoint_needs_no_base_model(tmp_path, monkeypatch):
    monkeypatch.delenv("METAQUANT_PRETRAINED", raising=False)
    first, *others = runs_of(["tables", "run", "table1", "-m", "ResNet20", "--trial", "1", "--results-root", str(tmp_path)])
    with pytest.raises(BadInput, match="there is no base model"):
        without_base_model([first, *others])
    first.path.mkdir(parents=True)
    (first.path / "checkpoint-previous.pth").touch()
    assert list(without_base_model([first, *others])) == others
