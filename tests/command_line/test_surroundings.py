"""What a shell or a system gives to main.py: streams that are closed or narrow, Ctrl-C at any moment, no POSIX."""

import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import PROJECT
from resumed import only_run
from run_folders import make_run

from main import main

MAIN = [sys.executable, str(PROJECT / "main.py")]
KIND = "standard streams closed or narrow, Ctrl-C while starting: no traceback, nothing lost"


def shell(command, redirection, folder, **environment):
    """Runs a command whose redirection is bash's; it may take two minutes."""
    line = ["bash", "-c", f'exec "$@" {redirection}', "bash", *command]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=os.environ | environment, timeout=120)


def printed(process):
    """That nothing of Python's own appears."""
    assert "Traceback" not in process.stderr + process.stdout
    assert "Exception ignored" not in process.stderr + process.stdout
    return process.stdout


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(redirection, tmp_path, tally):
    make_run(tmp_path / "a")
    process = shell([*MAIN, "report", "a", "missing"], redirection, tmp_path)
    assert process.returncode == 0
    assert printed(process).startswith("# Results" if redirection == "2>&-" else "")
    assert ("missing" in process.stderr) == (redirection == ">&-")
    tally(KIND)


def test_a_file_never_gets_a_standard_streams_number(tmp_path):
    code = "import os; from utils.files.output import prepare_streams; prepare_streams()"
    code += "; f = open('x', 'w'); assert f.fileno() > 2"
    code += "; os.write(1, b'one'); os.write(2, b'two'); print('three'); os.system('echo four')"
    process = shell([sys.executable, "-c", code], "<&- >&- 2>&-", tmp_path, PYTHONPATH=str(PROJECT))
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")
    assert (tmp_path / "x").read_text() == ""


def test_a_run_outlives_what_it_prints_to(tmp_path, tiny_set, monkeypatch, tally):
    """Standard error closed, standard output ASCII and on a full disk, the results in a folder that is not ASCII."""
    root = tmp_path / "Größe"
    flags = ["-m", "ResNet8", "-d", tiny_set, "-meta", "STE", "--pretrained", "none", "-bs", "4", "-n", "2"]
    with open("/dev/full", "w", encoding="ascii") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "stderr", None)
        assert main(["train", *flags, "--results-root", str(root)]) == 0
        monkeypatch.undo()
    run = only_run(root)
    assert json.loads((run / "run.json").read_text())["state"] == "done"
    assert len((run / "loss.txt").read_text().splitlines()) == 4
    tally(KIND, 3)


def test_what_an_encoding_lacks_is_escaped(tmp_path, tally):
    make_run(tmp_path / "a" / "Größe")
    (tmp_path / "a" / "Größe" / "loss.txt").unlink()
    process = shell([*MAIN, "report", "a", "Größe"], "2>&1", tmp_path, PYTHONIOENCODING="ascii:strict")
    assert process.returncode == 2
    assert r"Gr\xf6\xdfe" in printed(process)
    tally(KIND)


def test_the_output_of_a_report_is_not_lost_silently(tmp_path):
    make_run(tmp_path / "a")
    assert shell([*MAIN, "report", "a"], ">/dev/full", tmp_path).returncode != 0


def test_a_report_is_drawn_whatever_the_backend(tmp_path):
    make_run(tmp_path / "a")
    process = shell([*MAIN, "report", "a", "--out", "out"], "", tmp_path, MPLBACKEND="not-installed")
    assert process.returncode == 0, process.stderr
    assert printed(process).startswith("# Results")
    assert list((tmp_path / "out").glob("*.png"))


INTERRUPTED = """
import os, signal, sys
sys.argv = {argv}
sys.path.insert(0, {project!r})
count = 0

def interrupt(event, _):
    global count
    if event == "import":
        count += 1
        if count == {moment}:
            os.kill(os.getpid(), signal.SIGINT)

code = compile(open(sys.argv[0]).read(), sys.argv[0], "exec")
sys.addaudithook(interrupt)
exec(code, {{"__name__": "__main__", "__file__": sys.argv[0], "__doc__": ""}})
"""


REPORT, TRAIN = ["report", "."], ["train", "-m", "ResNet20", "-d", "Digits", "--pretrained", "none"]
MOMENTS = [(REPORT, 2), (REPORT, 60), (REPORT, 400), (TRAIN, 12), (TRAIN, 500), (TRAIN, 1500)]


@pytest.mark.parametrize(("command", "moment"), MOMENTS)
def test_ctrl_c_while_starting_is_a_line(command, moment, tmp_path, tally):
    """At the n-th import, of main.py's own to those of torch or pandas."""
    make_run(tmp_path / "a")
    program = INTERRUPTED.format(argv=[MAIN[1], *command], project=str(PROJECT), moment=moment)
    process = shell([sys.executable, "-c", program], "", tmp_path)
    assert process.returncode in (130, -signal.SIGINT)
    assert process.stderr == "main.py: stopped by SIGINT\n"
    assert process.stdout == ""
    assert not (tmp_path / "Results").exists()
    tally(KIND)


@pytest.mark.parametrize("command", [[], ["-h"], ["train", "-h"], ["tables", "status", "table1"], ["report", "."]], ids=" ".join)
def test_a_system_without_posix_locks_is_told_what_is_supported(command, tmp_path):
    code = "import sys; sys.modules.update(fcntl=None, resource=None); from main import main; sys.exit(main())"
    process = shell([sys.executable, "-c", code, *command], "", tmp_path, PYTHONPATH=str(PROJECT))
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("main.py: error: this system is not supported")
    assert "Linux or macOS" in line


def test_the_readme_says_which_systems_are_supported():
    text = (PROJECT / "README.md").read_text()
    minutes = text[text.index("## See it in minutes") : text.index("## The algorithm")]
    assert "Linux or macOS" in minutes
