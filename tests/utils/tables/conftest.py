"""A table of two small cells, the command that runs it, and processes to run it from."""

import pytest
import torch
from conftest import Server

TINY = """
trials = 1
[settings]
epochs = 3
batch-size = 4
[tables.tiny]
dataset = "{set}"
cells = [
  {{ model = "ResNet8", quantizer = "dorefa", backward = "STE",     optimizer = "SGD", published = "50.000 (1.000)" }},
  {{ model = "ResNet8", quantizer = "BWN",    backward = "FC-Grad", optimizer = "SGD" }},
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


@pytest.fixture
def another_server(one_thread):
    """A second process from which main.py can be forked, at the same time as from `server`."""
    with Server() as another:
        yield another
        another.clear()
