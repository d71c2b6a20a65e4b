"""What a newcomer types: the quickstart in a shortened form, the tables' scripts, and every command of the README."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parsed import parsed, train_settings

from utils.dataset import SPLITS, load_images
from utils.run.folder.checkpoint import load_tensors
from utils.run.settings import TrainSettings
from utils.tables.manifest import MANIFEST, read_manifest

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()
PAGES = [README, *(page.read_text() for page in sorted(PROJECT.glob("[a-z]*/**/README.md")))]


def readme_commands():
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands(command):
    words = shlex.split(command, comments=True)
    if words[:2] == ["python", "main.py"]:
        assert callable(parsed(words[2:]).function)
    else:
        words = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        assert words[0] in ("bash", "python")
        assert (PROJECT / words[1]).is_file()


def test_the_readme_names_files_and_definitions_that_exist():
    names = set(re.findall(r"`((?:meta_utils|utils|models_CIFAR|figs|tests|scripts)/[\w./]+)`", README))
    assert len(names) >= 8
    for name in names:
        assert (PROJECT / name).exists(), name
    sources = [*PROJECT.glob("m*_*/*.py"), *PROJECT.glob("utils/*.py")]
    code = "\n".join(path.read_text() for path in sources)
    for row in re.findall(r"^\|.*\| (`.*) \|$", README, flags=re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", row):
            last = name.split(".")[-1]
            defined = re.search(rf"(def|class) {last}\b|^ +{last} = property", code, flags=re.MULTILINE)
            assert defined or (PROJECT / name).exists(), name


FEW_DIGITS = f"""
import pickle, sys
from pathlib import Path
sys.path.insert(0, {str(PROJECT)!r})
from main import main
from utils.choices import DATASETS
few = pickle.loads(Path(__file__).with_name("digits.pickle").read_bytes())
DATASETS.data["Digits"] = lambda split, root: few[split]  # the scripts name a built-in set
sys.exit(main())
"""


@pytest.fixture
def venv_of_few_digits(tmp_path):
    """A VENV for the scripts: this one, but that for its `python main.py` Digits has 96 images to train on and 96 to test."""
    program, python = tmp_path / "few_digits.py", tmp_path / "venv" / "bin" / "python"
    program.write_text(FEW_DIGITS)
    whole = {split: load_images("Digits", split) for split in SPLITS}
    few = {split: replace(all_of, images=all_of.images[:96], targets=all_of.targets[:96]) for split, all_of in whole.items()}
    (tmp_path / "digits.pickle").write_bytes(pickle.dumps(few))
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\nif [ "$1" = main.py ]; then set -- {program} "${{@:2}}"; fi\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python.parent.parent


def test_an_environment_whose_making_was_interrupted_is_made_whole(tmp_path):
    """`python -m venv` makes the interpreter first, and pip last."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    command = 'source scripts/environment.sh; "$PYTHON" -m pip --version'
    environment = os.environ | {"VENV": str(tmp_path / "venv"), "PYTHON3": sys.executable}
    found = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, env=environment, cwd=PROJECT)
    assert (found.returncode, str(tmp_path / "venv") in found.stdout) == (0, True), found.stderr


def test_quickstart_in_a_shortened_form(venv_of_few_digits, tmp_path):
    environment = os.environ | {
        "VENV": str(venv_of_few_digits),
        "EPOCHS": "1",
        "BASE_EPOCHS": "1",
        "RESULTS": str(tmp_path / "R"),
    }
    process = subprocess.run(
        ["bash", PROJECT / "scripts" / "quickstart.sh"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    table = process.stdout.split("## Other runs")[1].split("\n## ")[0]
    runs = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| ResNet20 Digits")]
    quantized = [f"dorefa SGD {method} (batch_size 32, lr_adjust 10)" for method in ("STE", "MultiFC", "FC-Grad")]
    assert runs == ["full precision (batch_size 64, init_lr 0.05, lr_adjust 5)", *quantized]
    assert "There are none" in process.stdout.split("## Fairness")[1]
    pictures = ("curves", "flips", "flip_map_1", "flip_map_2", "flip_map_3")
    assert all((tmp_path / "R" / "report" / f"{name}.png").stat().st_size > 10_000 for name in pictures)
    page = process.stdout.splitlines()[-1].rpartition(": ")[2]
    assert Path(page).read_text().count("<svg") == len(pictures)


@pytest.mark.parametrize("name", ["method_overview", "method_forward"])
def test_diagrams_are_drawn_by_their_program(name, tmp_path):
    for source in (PROJECT / "figs").glob("*.py"):
        (tmp_path / source.name).write_text(source.read_text())
    subprocess.run([sys.executable, tmp_path / f"{name}.py"], check=True)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (PROJECT / "figs" / f"{name}.png").is_file()


TABLE_SCRIPTS = {"table1_resnet20": "table1", "table1_cifar10": "table1", "table2_cifar100": "table2", "fig3_convergence": "fig3"}


def script_rows(name):
    """(flags, published number) of each row of a script, with those of the script that it takes over."""
    source = (PROJECT / "scripts" / f"{name}.sh").read_text()
    parts = re.findall(r"^part scripts/(\w+)\.sh$", source, flags=re.MULTILINE)
    own = re.findall(r"^row (.*?) +# (\d+\.\d{3} \(\d+\.\d{3}\))$", source, flags=re.MULTILINE)
    assert len(own) == len(re.findall(r"^row ", source, flags=re.MULTILINE))
    return [row for part in parts for row in script_rows(part)] + own


@pytest.mark.parametrize(("name", "table"), TABLE_SCRIPTS.items())
def test_a_tables_script_is_its_manifest(name, table):
    """Row by row: the same cell, the same settings once resolved, the same published number."""
    expected = read_manifest(MANIFEST, "logs")[table]
    if name == "table1_resnet20":
        expected = [row for row in expected if row.cell.model == "ResNet20"]
    found = script_rows(name)
    assert len(found) == len(expected)
    for (flags, published), row in zip(found, expected, strict=True):
        assert published == row.published
        assert train_settings(flags.split()) == TrainSettings.from_values(row.cell._asdict() | row.settings, "manifest")


@pytest.mark.parametrize("name", TABLE_SCRIPTS)
def test_a_tables_script_prints_its_commands(name, tmp_path):
    (tmp_path / "ResNet20-CIFAR10-pretrain.pth").touch()
    environment = os.environ | {"TRIALS": "2", "EPOCHS": "3", "METAQUANT_PRETRAINED": str(tmp_path), "RESULTS": "R"}
    script = PROJECT / "scripts" / f"{name}.sh"
    printed = subprocess.run(["bash", script, "--dry-run"], capture_output=True, text=True, env=environment, check=True)
    *commands, last = [parsed(shlex.split(line)[2:]) for line in printed.stdout.splitlines()]
    assert last.function.__name__ == "report"
    assert last.roots == ["R"]
    runs = [args for args in commands if args.function.__name__ == "train"]
    assert [args.trial for args in runs] == [1, 2] * len(script_rows(name))
    assert {(args.epochs, args.results_root) for args in runs} == {(3, "R")}
    own = {args.model: f"R/{args.model}-{args.dataset}/{args.model}-{args.dataset}-pretrain.pth" for args in runs}
    expected = own | {"ResNet20": str(tmp_path / "ResNet20-CIFAR10-pretrain.pth")}
    assert all(args.pretrained == expected[args.model] for args in runs)
    assert [args.model for args in commands if args not in runs] == [model for model in own if model != "ResNet20"]


def test_a_tables_script_goes_on_when_a_run_fails(tmp_path, tiny_set):
    """The first row's data are not there, the second's are."""
    script = tmp_path / "two_rows.sh"
    rows = f"row -m ResNet20 -d NPZ:absent.npz -meta STE\nrow -m ResNet20 -d {tiny_set} -bs 4 -meta STE\n"
    script.write_text(f"set -euo pipefail\ncd {PROJECT}\nsource scripts/rows.sh\nBASE=none\n{rows}finish\n")
    environment = os.environ | {"VENV": sys.prefix, "TRIALS": "1", "EPOCHS": "1", "RESULTS": str(tmp_path / "R")}
    process = subprocess.run(["bash", script], capture_output=True, text=True, env=environment)
    assert process.returncode == 1
    failed = [line for line in process.stderr.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 1
    assert failed[0].startswith("failed: main.py train -m ResNet20 -d NPZ:absent.npz")
    (record,) = (tmp_path / "R").rglob("run.json")
    assert json.loads(record.read_text())["state"] == "done"


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "word"),
    [
        ("table1_resnet20", ["--dryrun"], {}, "--dry-run"),
        ("table1_resnet20", ["--dry-run"], {"TRIALS": "1 2"}, "'1 2'"),
        ("table1_resnet20", ["--dry-run"], {"METAQUANT_PRETRAINED": "/nowhere"}, "/nowhere"),
        ("evidence_table1", ["--dry-run"], {"METAQUANT_PRETRAINED": str(PROJECT)}, "ResNet20-CIFAR10-pretrain.pth"),
        ("evidence_first_epochs", ["--dry-run"], {"METAQUANT_PRETRAINED": ""}, "released base model"),
        ("quickstart", ["--help"], {}, "no arguments"),
        ("quickstart", [], {"VENV": "/nowhere/venv", "PYTHON3": "false"}, "Python 3.11"),
    ],
)
def test_a_script_typed_wrongly_is_one_clear_line(script, arguments, variables, word):
    command = ["bash", PROJECT / "scripts" / f"{script}.sh", *arguments]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert word in line


def examples():
    """The Python examples of meta_utils/README.md: the parts of own.py, then the loop without main.py in three parts."""
    page = (PROJECT / "meta_utils" / "README.md").read_text()
    *own, loop, installed, opened = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    return own, (loop, installed, opened)


def test_an_example_has_at_most_fifteen_lines_of_code():
    own, loops = examples()
    assert len(own) == 6
    sizes = [sum(line.strip() != "" for line in example.splitlines()) for example in (*own, *loops)]
    assert max(sizes) <= 15
    assert sizes[-1] <= 8  # six, the net, and a call of the loop


def test_the_readmes_loop_trains_without_main(batches):
    _, (loop, installed, opened) = examples()
    data = [(images.float().repeat(1, 1, 4, 4), targets) for images, targets in batches(2)]
    shown = []
    names = {"batches": data, "print": shown.append}
    exec(compile(loop, "meta_utils/README.md", "exec"), names)
    assert names["loop"].iteration == 2
    assert len(names["net"].layer_name_list) == 19  # of 21 layers
    assert len(shown) == 1
    assert 0 <= shown[0].top1 <= 100
    exec(compile(installed, "meta_utils/README.md", "exec"), names)
    assert names["loop"].iteration == 1
    assert names["net"].quantizer.s.grad.abs().min() > 0
    exec(compile(loop, "meta_utils/README.md", "exec"), names)
    bias = names["net"].fc.bias.detach().clone()
    exec(compile(opened, "meta_utils/README.md", "exec"), names)
    assert names["loop"].clip == 1.0
    assert not torch.equal(names["net"].fc.bias, bias)
    moved = torch.cat([(p.grad).flatten() for p in names["net"].parameters()]).norm()
    assert moved <= 1.0001


def test_the_readmes_own_parts_train(tmp_path, tiny_set):
    own_parts, _ = examples()
    (tmp_path / "own.py").write_text("".join(own_parts))
    flags = ["-bs", "4", "-n", "2", "-lr", "0.05", "--pretrained", "none", "--results-root", tmp_path / "R"]
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}

    def own(*arguments):
        command = [sys.executable, tmp_path / "own.py", *arguments]
        process = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert process.returncode == 0, process.stderr
        return process.stdout

    assert own("count") == "11086\n"
    own("train", "-m", "Tiny", "-d", tiny_set, *flags, "-q", "sign", "-meta", "Triangle")
    own("train", "-m", "Tiny", "-d", tiny_set, *flags, "-q", "step", "-meta", "Gain")
    assert [*(tmp_path / "R").rglob("Baseline-Triangle-sign-optimizer-SGD-1bits-lr-30-trial-1/run.json")]
    own("train", "-m", "ResNet20", "-d", tiny_set, *flags, "-q", "sign", "-meta", "Gain")
    (record,) = (tmp_path / "R").rglob("Meta-Gain-*-sign-*/run.json")
    layers = own("evaluate", record.parent).splitlines()[1:-1]
    assert len(layers) == 22
    assert all(" weights, 2 values: -1, 1" in layer for layer in layers)
    assert record.parent.name == "Meta-Gain-Nonlinear-None-sign-SGD-1bits-lr-30-trial-1"
    state = load_tensors(record.parent / "checkpoint.pth", "test")["loop"]
    assert state["meta_net"]["a"] != 0

    manifest = tmp_path / "mine.toml"
    cell = '{ model = "Tiny", quantizer = "sign", backward = "Gain", optimizer = "SGD" }'
    settings = "[settings]\nepochs = 1\nbatch-size = 4\n"
    manifest.write_text(f'{settings}[tables.mine]\ndataset = "{tiny_set}"\ncells = [{cell}]\n')
    where = ["--pretrained-root", "none", "--results-root", tmp_path / "T"]
    assert "done: Tiny NPZ" in own("tables", "run", "mine", "--manifest", manifest, *where)
    wrong = subprocess.run(
        [sys.executable, tmp_path / "own.py", "tables", "run", "nine"], capture_output=True, text=True, env=environment
    )
    assert wrong.stderr.startswith("own.py: error: nine: no such table")
