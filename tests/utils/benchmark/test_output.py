"""What a benchmark prints above its table."""

import pytest

from utils import environment
from utils.benchmark import costs, output, timing

QUICK = ["--methods", "STE", "--batch-sizes", "1", "--repeats", "1", "--iterations", "1", "--device", "cpu"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"commit": COMMIT, "dirty": False}, ", commit 0123456789"),
        ({"commit": COMMIT, "dirty": True}, ", commit 0123456789 with changes"),
        (None, ""),
    ],
)
@pytest.mark.parametrize("flags", [QUICK, ["--scale", "--methods", "STE", "--batch-sizes", "1"]], ids=["timed", "counted"])
def test_the_heading_names_device_versions_and_commit(flags, state, said, call_main, monkeypatch):
    monkeypatch.setattr(output, "git_state", lambda: state)
    monkeypatch.setattr(timing, "measure", lambda options, device: [])
    monkeypatch.setattr(costs, "this_cpu", lambda: costs.MACHINES[0])
    outcome = call_main("benchmark", *flags)
    assert outcome.code == 0, outcome.err
    heading, blank, head, *_ = outcome.out.splitlines()
    assert heading.startswith("cpu: ")
    assert heading.endswith(f"numpy {environment.versions()['numpy']}{said}")
    assert ("; an iteration, counted; " if "--scale" in flags else "; 1 x 1 iterations; ") in heading
    assert blank == ""
    assert head.startswith("| net | batch |")
