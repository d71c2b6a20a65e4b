"""Shared fixtures: where the real data lies, a tiny net, a tiny data set, main.py called in this process or a forked one."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import small_main  # noqa: E402, F401 (registers ResNet8 before the names of nets are read)

from main import main  # noqa: E402
from meta_utils.metaquantize import metaquantize  # noqa: E402
from models_CIFAR.resnet import ResNet  # noqa: E402
from utils import MAIN  # noqa: E402

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # on a GPU machine where nothing can be installed the other tests run
    collect_ignore = ["utils/test_quantize.py", "utils/report/test_reading.py", "utils/report/test_trials.py"]
else:
    settings.register_profile(
        "same", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("same")

TALLY = pytest.StashKey[Counter]()
TALLY_MARK = "<!-- what follows is written by: bash scripts/test.sh --tally -->\n"


def pytest_addoption(parser):
    parser.addoption("--cuda", action="store_true", help="only the tests marked cuda; without it the tests see no GPU")
    parser.addoption("--tally", action="store_true", help="write what was tried, and how often, into tests/README.md")


def pytest_configure(config):
    config.stash[TALLY] = Counter()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # by a shell's &, and then in every process that a test starts
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["LC_ALL"] = "C.UTF-8"  # bash warns of a locale that is not there
    for name in (
        "TRIALS",
        "EPOCHS",
        "BASE_EPOCHS",
        "RESULTS",
        "METHODS",
        "ITERATIONS",
        "BATCHES",
        "PART",
        "QUANTIZERS",
        "MANIFEST",
        "MODEL",
        "DATASET",
        "PRECISION",
        "VALIDATION",
    ):
        os.environ.pop(name, None)  # the scripts heed them
    if not config.getoption("--cuda"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        raise pytest.UsageError("--cuda: there is no CUDA device")
    if config.getoption("--tally") and (config.option.keyword or config.args_source != config.ArgsSource.TESTPATHS):
        raise pytest.UsageError("--tally: counts all tests, not a selection")


def pytest_collection_modifyitems(config, items):
    marked = {item for item in items if item.get_closest_marker("cuda")}
    if config.getoption("--cuda"):
        config.hook.pytest_deselected(items=[item for item in items if item not in marked])
        items[:] = [item for item in items if item in marked]
    for item in marked if not config.getoption("--cuda") else []:
        item.add_marker(pytest.mark.skip(reason="runs with --cuda, on a GPU"))


@pytest.fixture
def tally(request):
    """tally(what, count): counts an attempt to lose or falsify a run that this test made, and that was withstood."""

    def count(what, times=1):
        request.config.stash[TALLY][what] += times

    return count


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a process of several: its counts go to the one that prints
        session.config.workeroutput["tally"] = dict(session.config.stash[TALLY])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[TALLY].update(getattr(node, "workeroutput", {}).get("tally", {}))  # none where it crashed


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    counts = config.stash[TALLY]
    if not config.getoption("--tally") or exitstatus != 0 or hasattr(config, "workeroutput"):  # of one process of several
        return
    rows = [f"| {what} | {times} |" for what, times in sorted(counts.items())]
    table = "\n".join(["| what was tried, and withstood | times |", "|---|---|", *rows])
    page = PROJECT / "tests" / "README.md"
    kept = page.read_text().split(TALLY_MARK)[0]
    page.write_text(f"{kept}{TALLY_MARK}\n{table}\n")


def folder_from(variable):
    """The folder that an environment variable names; skips the test where it names none."""
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"{variable} is not set")
    if not Path(path).is_dir():
        pytest.skip(f"{variable}={path} is not a folder")
    return Path(path)


@pytest.fixture(scope="session")
def data_root():
    return folder_from("METAQUANT_DATA")


@pytest.fixture(scope="session")
def pretrained_root():
    return folder_from("METAQUANT_PRETRAINED")


@pytest.fixture
def no_network(monkeypatch):
    """Downloads go to a proxy that is not there, so that they fail at once, on any machine."""
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)


@pytest.fixture
def tiny_net():
    """ResNet8 for 10 classes in float64: 10 meta layers."""
    torch.manual_seed(0)
    return metaquantize(ResNet(8)).double().train()


@pytest.fixture
def batches():
    """batches(n): n batches of 4 random 8x8 images in float64 (the nets are fully convolutional) and their targets."""

    def make(count, size=8):
        generator = torch.Generator().manual_seed(1)
        return [
            (
                torch.randn(4, 3, size, size, generator=generator, dtype=torch.float64),
                torch.randint(10, (4,), generator=generator),
            )
            for _ in range(count)
        ]

    return make


def write_npz(path, train=8, test=8, classes=2, seed=0):
    """A random data set in the NPZ format; returns its -d value."""
    random = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % classes
    np.savez(path, **arrays)
    return f"NPZ:{path}"


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory):
    """The -d value of 8 training and 8 test images in two classes."""
    return write_npz(tmp_path_factory.mktemp("set") / "tiny.npz")


@pytest.fixture
def forbid(monkeypatch):
    """forbid(folder, *names): functions of os refuse everything below a folder, as they do to those who may not enter it."""

    def refusing(function, folder):
        def call(path=".", *arguments, **options):
            if isinstance(path, (str, os.PathLike)) and str(path).startswith(str(folder)):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return function(path, *arguments, **options)

        return call

    def forbid(folder, *names):
        for name in names:
            monkeypatch.setattr(os, name, refusing(getattr(os, name), folder))

    return forbid


class Malicious:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


class Outcome:
    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def refuses(call_main, tmp_path, tally):
    """refuses(arguments, words): main.py says what is wrong in one line that holds the words, ends with 2, writes nothing."""

    def check(arguments, words):
        outcome = call_main(*arguments)
        assert outcome.code == 2
        assert outcome.out == ""
        (line,) = outcome.err.splitlines()
        assert line.startswith("main.py")
        assert len(line) < 3000
        for word in words:
            assert all(part in line for part in word.split(" ... "))
        assert list(tmp_path.iterdir()) == []  # nothing written
        tally("bad flag or file: one line, exit code 2, nothing written")

    return check


@pytest.fixture
def call_main(capfd):
    """call_main(*arguments): runs main.py's main; returns exit code, standard output and standard error.

    program: what the runs of `tables` are processes of.
    """

    def call(*arguments, program=MAIN):
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments], program)
        except SystemExit as stop:
            code = stop.code
        return Outcome(code, *capfd.readouterr())

    return call


class Server:
    """tests/main_server.py, and the process that it is running."""

    def __init__(self):
        source = Path(__file__).with_name("main_server.py")
        self.process = subprocess.Popen([sys.executable, source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running = False

    def start(self, argv, log, file_size=None, moment=None, test_batch=None):
        """file_size: bytes that a file may have; moment: of a checkpoint's writing at which the process is killed.

        test_batch: of the evaluation, before which the process is sent SIGTERM.
        """
        command = {"argv": argv, "log": str(log), "file_size": file_size, "moment": moment, "test_batch": test_batch}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        self.pid = int(self._answer("pid"))
        self.running = True

    def wait(self):
        status = int(self._answer("exit"))
        self.running = False
        return status

    def kill(self, which=signal.SIGKILL):
        """Sends the signal; returns the exit status, which is 0 where the run was over before."""
        os.kill(self.pid, which)  # the server keeps an ended process as a zombie, so the pid is its own
        return self.wait()

    def clear(self):
        """Ends what a test that failed has left."""
        if self.running:
            self.kill()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.process.stdin.close()
        assert self.process.wait(300) == 0  # a server that was not needed may still be importing torch

    def _answer(self, word):
        name, value = self.process.stdout.readline().split()
        assert name == word
        return value


@pytest.fixture(scope="module")
def module_server():
    with Server() as server:
        yield server


@pytest.fixture
def server(module_server):
    """A process from which main.py can be forked."""
    yield module_server
    module_server.clear()


def until(condition, seconds=300.0):
    """Waits until the condition is true, and returns what it is then."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.0005)
    return found
