"""The file of --out: tried before anything is timed, and one line where it cannot be written in the end."""

import resource
import signal
from contextlib import contextmanager

import pytest

from utils.benchmark import output, timing
from utils.benchmark.options import BenchmarkOptions
from utils.environment import choose_device
from utils.errors import BadInput, RunFailed

QUICK = ["--methods", "STE", "--batch-sizes", "1", "--repeats", "1", "--iterations", "1", "--device", "cpu"]


@contextmanager
def small_files(size):
    """No file may grow beyond so many bytes, as on a full disk; pytest's own output, which may be a file, comes afterwards."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_that_cannot_be_made_is_one_line_before_the_timing(call_main, refuses, monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "measure", lambda *arguments: pytest.fail("it was timed"))
    refuses(["benchmark", *QUICK, "--out", "/proc/x.json"], ["--out /proc/x.json cannot be written: No such file or directory"])
    outcome = call_main("benchmark", *QUICK, "--out", "/proc/version")  # read-only
    (line,) = outcome.err.splitlines()
    assert (outcome.code, outcome.out) == (2, "")
    assert line.startswith("main.py: error: --out /proc/version cannot be written: ")


@pytest.mark.parametrize("old", [None, b"what was there"])
def test_a_file_that_is_tried_is_left_as_it_was(old, tmp_path):
    path = tmp_path / "b.json"
    if old is not None:
        path.write_bytes(old)
    output.try_out(str(path))
    assert (path.read_bytes() if path.exists() else None) == old
    for size in (100, 10):
        with pytest.raises(BadInput, match=f"^--out {path} cannot be written: "), small_files(size):
            output.try_out(str(path))
        assert (path.read_bytes() if path.exists() else None) == old


def test_a_link_to_nothing_is_left(tmp_path):
    (tmp_path / "b.json").symlink_to("there.json")
    output.try_out(str(tmp_path / "b.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


def test_a_disk_that_is_full_in_the_end_is_one_line(tmp_path):
    options, path = BenchmarkOptions(out=str(tmp_path / "b.json")), tmp_path / "b.json"
    with pytest.raises(RunFailed, match=f"^--out {path} cannot be written: File too large$"), small_files(10):
        output.write_json([], options, choose_device("cpu"))


def test_a_device_is_not_tried():
    output.try_out("/dev/full")
    with pytest.raises(RunFailed, match=r"^--out /dev/full cannot be written: No space left on device$"):
        output.write_json([], BenchmarkOptions(out="/dev/full"), choose_device("cpu"))
