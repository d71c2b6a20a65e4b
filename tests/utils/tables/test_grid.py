"""Sweeps: the runs of a grid's combinations, their folders, what is refused, and which value the report names."""

import json
import shlex

import pytest
from conftest import PROJECT
from parsed import parsed
from run_folders import rows_of
from table_runs import by_hand, runs_of

from utils.report.report import make_report
from utils.run.folder.name import run_name
from utils.tables.grid import exp_spec, sweep_of
from utils.tables.options import EngineOptions, Selection
from utils.tables.slurm import slurm_script

STE = ["-meta", "STE"]


def test_every_combination_is_a_run_in_a_folder_of_its_own(command):
    plain = runs_of(command("R", "--trials", "2"))
    runs = runs_of(command("R", "--trials", "2", "--grid", "init-lr=1e-3,1e-2,1e-1", "--grid", "hidden_size=10,20"))
    assert len(runs) == 2 * (3 + 6)  # STE has no use for a hidden size
    assert len({run.path for run in runs}) == len(runs)
    assert not {run.path for run in runs} & {run.path for run in plain}
    assert [run.trial for run in runs] == [1] * 9 + [2] * 9
    settings = [run.settings for run in runs[:9]]
    assert [(s.init_lr, s.hidden_size) for s in settings[:3]] == [(0.001, None), (0.01, None), (0.1, None)]
    assert {(s.init_lr, s.hidden_size) for s in settings[3:]} == {(lr, h) for lr in (0.001, 0.01, 0.1) for h in (10, 20)}
    assert run_name(settings[1]).endswith("-lr-30-grid-init-lr-0.01-trial-1")
    assert settings[4].exp_spec == "grid-init-lr-0.001-hidden-size-20"
    assert str(runs[1]) == f"{runs[1].row.cell} (init-lr 0.01) trial 1"


def test_a_grid_goes_with_other_settings_and_may_hold_milestones(command):
    flags = ["--set", "exp-spec=short", "--set", "batch-size=2", "--grid", "lr-adjust=1;1,2;cosine", "drop-last=true,false"]
    runs = runs_of(command("R", *STE, *flags))
    assert [(run.settings.lr_adjust, run.settings.drop_last) for run in runs] == [
        (adjust, last) for adjust in (1, "1,2", "cosine") for last in (True, False)
    ]
    assert {run.settings.batch_size for run in runs} == {2}
    assert runs[2].settings.exp_spec == "short-grid-lr-adjust-1-2-drop-last-True"
    for run in runs:
        assert parsed(run.command[2:]).exp_spec == run.settings.exp_spec


def test_a_precision_is_set_or_varied_like_other_settings(command):
    runs = runs_of(command("R", *STE, "--grid", "precision=float32,bf16"))
    assert [run.settings.precision for run in runs] == ["float32", "bf16"]
    assert [run_name(run.settings).split("-grid-")[1] for run in runs] == ["precision-float32-trial-1", "precision-bf16-trial-1"]
    (run,) = runs_of(command("R", *STE, "--set", "precision=bf16"))
    assert run.settings.precision == parsed(run.command[2:]).precision == "bf16"


def test_a_slurm_task_is_told_of_the_grid():
    grid = [("init-lr", ("1e-3", "1e-2")), ("lr-adjust", ("30", "60,80"))]
    selection = Selection(tables=["table1"], grid=grid, set=[("batch-size", "64")])
    script = slurm_script(selection, EngineOptions(engine="slurm", dry_run=True), runs=[])
    (line,) = [line for line in script.splitlines() if " tables run " in line]
    assert Selection.of(parsed(shlex.split(line.split(" --slice ")[0])[2:])) == selection


def test_status_has_a_row_for_every_value(command, call_main, tmp_path):
    lines = call_main(*command("R", *STE, "--grid", "init-lr=1e-3,1e-2", action="status")).out.splitlines()
    (cell,) = {run.row.cell for run in runs_of(command("R", *STE))}
    assert [line.split(" | ")[0] for line in lines[2:4]] == [f"| {cell} (init-lr 0.001)", f"| {cell} (init-lr 0.01)"]


BAD_GRIDS = [  # flags, words that the one line must hold
    (["--grid", "init-lr"], ["--grid", "NAME=VALUE,VALUE"]),
    (["--grid", "init-lr=1e-3"], ["--grid", "at least two values", "'init-lr=1e-3'"]),
    (["--grid", "init-lr=1e-3,"], ["--grid", "at least two values"]),
    (["--grid", "=1,2"], ["--grid", "NAME=VALUE,VALUE"]),
    (["--grid", "--init-lr=1,2"], ["--grid"]),
    (["--grid", "init-lr=1e-3,0.001"], ["--grid init-lr", "0.001 is listed twice"]),
    (["--grid", "init-lr=1,fast"], ["--grid init-lr", "-lr/--init-lr", "'fast'"]),
    (["--grid", "speed=1,2"], ["--grid speed", "no setting --speed"]),
    (["--grid", "init-lr=1,2", "--grid", "init-lr=3,4"], ["--grid init-lr", "given twice"]),
    (["--grid", "init-lr=1,2", "--set", "init-lr=3"], ["--grid init-lr", "--set gives it"]),
    *[
        (["--grid", f"{name}=1,2"], [f"--grid {name}", "cannot be varied"])
        for name in ("epochs", "trial", "seed", "model", "validation", "workers", "exp-spec", "pretrained", "phi", "data-root")
    ],
    (["--grid", "num-lstm=1,2"], ["--grid num-lstm", "no selected cell"]),
    (["--grid", "quantizer-lr=1e-3,1e-2"], ["--grid quantizer-lr", "no selected cell"]),
    (["--grid", "precision=bf16,fp8"], ["--grid precision", "--precision", "float32, tf32, bf16", "'fp8'"]),
    (["--grid", "bits=1,9"], ["--grid bits", "-bw/--bits", "from 1 to 8", "'9'"]),
    (["--grid", "warmup=1,100"], ["--grid warmup=1,100", "(warmup 100)", "--warmup 100"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_GRIDS, ids=lambda x: " ".join(x)[-50:])
def test_a_bad_grid_is_one_line(flags, words, refuses, tmp_path):
    manifest = str(PROJECT / "scripts" / "digits.toml")
    refuses(["tables", "run", "digits", "--manifest", manifest, "--pretrained-root", "none", *flags], words)


def test_an_unknown_quantizer_in_a_manifest_is_one_line_beside_a_grid_too(call_main, tmp_path, manifest):
    manifest.write_text(manifest.read_text().replace('"dorefa"', '"TWN"'))
    outcome = call_main("tables", "run", "tiny", "--manifest", manifest, "--pretrained-root", "none", "--grid", "init-lr=1,2")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "-q/--quantizer" in outcome.err
    assert "'TWN'" in outcome.err


def test_an_exp_spec_says_whether_its_run_is_of_a_sweep():
    assert exp_spec(None, {"init-lr": "1e+20"}) == "grid-init-lr-1e20"
    for spec, base in (
        ("grid-init-lr-0.1", ""),
        ("short-grid-init-lr-0.1", "short"),
        ("a-b-grid-init-lr-0.1", "a-b"),
        ("short", None),
        ("mygrid-3", None),
        ("my-grid-search", None),
        ("grid", None),
        (None, None),
    ):
        assert sweep_of(spec) == base


def test_the_value_that_the_report_names_is_the_best_by_validation(command, call_main, tmp_path):
    """Runs as they are made; then with accuracies by which test and validation disagree, and without validation."""
    grid = [*STE, "--grid", "init-lr=1e-3,1e-2", "-n", "2", "--set", "batch-size=3", "validation=2"]
    runs = runs_of(command("R", *grid))
    by_hand(runs, call_main)
    assert call_main(*command("R", *grid, action="status")).out.splitlines()[2].split(" | ")[2] == "1"
    for run, test, val in zip(runs, ("90", "60"), ("10", "20"), strict=True):
        (run.path / "test-acc.txt").write_text(f"1, {test}\n2, 95\n")
        (run.path / "val-acc.txt").write_text(f"1, {val}\n2, 5\n")
    rows = rows_of(make_report([tmp_path / "R"])[0].markdown(), "Sweeps")
    assert [(row["value"], row["validation"], row["by validation"]) for row in rows] == [
        ("init_lr 0.001", "10.000", ""),
        ("init_lr 0.01", "20.000", "best"),
    ]
    assert [row["at best validation"] for row in rows] == ["90.00", "60.00"]
    for run in runs:
        record = json.loads((run.path / "run.json").read_text())
        del record["settings"]["validation"]
        (run.path / "run.json").write_text(json.dumps(record))
    rows = rows_of(make_report([tmp_path / "R"])[0].markdown(), "Sweeps")
    assert [row["by validation"] for row in rows] == ["none is named: no validation images"] * 2
