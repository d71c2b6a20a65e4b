"""Exported files from elsewhere: what is wrong with one is said in one line, and takes no more memory than the file suggests."""

import contextlib
import importlib.util
from pathlib import Path

import pytest
from exported_runs import Runs
from hostile_exports import damaged_files, forged_files
from safetensors.numpy import load_file

from main import main

GROWTH, FIXED = 40, 24 << 20  # times the file's size, and bytes for what every command takes


@pytest.fixture(scope="module")
def packed(tmp_path_factory, tiny_set):
    folder = tmp_path_factory.mktemp("packed")
    path = folder / "net.safetensors"
    assert main(["export", str(Runs(folder, tiny_set).get("-q", "BWN")), str(path)]) == 0
    return path


@contextlib.contextmanager
def limited_growth(size):
    """The process's memory may grow by so much; not measured where the system has no such counter."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size is the present one again
    except OSError:
        yield
        return
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before <= GROWTH * size + FIXED


def resident(name):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


def refusal(path, call_main, size):
    with limited_growth(size):
        outcome = call_main("evaluate", path)
    assert (outcome.code, outcome.out) == (2, ""), (path, outcome.err)
    (line,) = outcome.err.splitlines()
    assert line.isprintable()
    assert len(line) < 1500
    return line


def test_a_forged_file_is_refused_by_what_is_wrong_with_it(packed, call_main, tmp_path, tally):
    path = tmp_path / "forged.safetensors"
    for case, content, words in forged_files(packed):
        path.write_bytes(content)
        line = refusal(path, call_main, len(content))
        assert path.name in line, case
        assert words in line, (case, line)
        tally("forged export (.safetensors), its digest made to fit: refused in one line")


def test_a_damaged_file_is_refused(packed, call_main, tmp_path, tally):
    for number, (case, make) in enumerate(damaged_files(packed)):
        path = tmp_path / f"damaged-{number}.safetensors"
        make(path)
        line = refusal(path, call_main, path.lstat().st_size if path.is_file() else 0)
        assert path.name in line, case
        tally("damaged export (.safetensors), or something else of that name: refused in one line")


needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the packages for ONNX are not installed (requirements-export.txt)",
)


@pytest.fixture(scope="module")
def onnx_file(packed):
    path = packed.with_name("net.onnx")
    (run,) = packed.parent.rglob("run.json")
    assert main(["export", str(run.parent), str(path)]) == 0
    return path


@needs_onnx
def test_an_onnx_file_that_holds_what_no_export_has_is_not_run(onnx_file, tally):
    import onnx
    from hostile_onnx import STATIC, copied

    from utils.run.exported import onnx_worker as worker

    def check(model):
        worker.check_model(model)
        worker.shape_of(model.graph.input, "input")

    good = onnx.load(onnx_file)
    check(good)
    for case, (change, words) in STATIC.items():
        model = copied(good)
        change(model)
        with pytest.raises(worker.Fault) as fault:
            check(model)
        assert words in str(fault.value), case
        tally("ONNX file with what no export has: refused before it is run")


@needs_onnx
def test_a_forged_onnx_file_is_refused_by_what_is_wrong_with_it(onnx_file, packed, call_main, tmp_path, tally):
    from hostile_onnx import forged_files

    names = load_file(packed).keys() | {f"{name[:-6]}" for name in load_file(packed) if name.endswith(".codes")}
    path = tmp_path / "forged.onnx"
    for content, words in forged_files(onnx_file, names):
        path.write_bytes(content)
        line = refusal(path, call_main, len(content))
        assert path.name in line, words
        assert words in line, words
        tally("forged export (.onnx), its digest made to fit: refused in one line")


@needs_onnx
def test_a_damaged_onnx_file_is_refused_or_read_as_it_was_written(onnx_file, call_main, tmp_path, tally):
    from hostile_onnx import damaged_files

    path, good = tmp_path / "damaged.onnx", call_main("evaluate", onnx_file).out
    for case, content in damaged_files(onnx_file):
        path.write_bytes(content)
        with limited_growth(len(content)):
            outcome = call_main("evaluate", path)
        if outcome.code == 0:
            assert outcome.out == good, case
        else:
            (line,) = outcome.err.splitlines()
            assert (outcome.code, outcome.out) == (2, "")
            assert path.name in line
        tally("damaged export (.onnx): refused in one line, or read as it was written")
