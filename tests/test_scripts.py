"""What a newcomer types: the quickstart in a shortened form, and every command of the README."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from main import COMMANDS
from utils.options import build_parser

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text()


def readme_commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands(command):
    words = shlex.split(command, comments=True)
    if words[:2] == ["python", "main.py"]:
        assert callable(build_parser(COMMANDS).parse_args(words[2:]).function)
    else:
        assert words[0] == "bash"
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


def test_quickstart_in_a_shortened_form(tmp_path):
    environment = os.environ | {"VENV": sys.prefix, "EPOCHS": "1", "BASE_EPOCHS": "1", "RESULTS": str(tmp_path / "R")}
    process = subprocess.run(
        ["bash", PROJECT / "scripts" / "quickstart.sh"], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    table = process.stdout.split("## Other runs")[1].split("\n## ")[0]
    runs = [line.split(" | ")[1] for line in table.splitlines() if line.startswith("| ResNet20 Digits")]
    assert runs == ["full precision", "dorefa SGD STE", "dorefa SGD MultiFC", "dorefa SGD FC-Grad"]
    assert "There are none" in process.stdout.split("## Fairness")[1]
    assert (tmp_path / "R" / "report" / "curves.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["method_overview", "method_forward"])
def test_diagrams_are_drawn_by_their_program(name, tmp_path):
    for source in (PROJECT / "figs").glob("*.py"):
        (tmp_path / source.name).write_text(source.read_text())
    subprocess.run([sys.executable, tmp_path / f"{name}.py"], check=True)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (PROJECT / "figs" / f"{name}.png").is_file()
