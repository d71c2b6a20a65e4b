"""A report on a few runs, and its files."""

import pytest
from run_folders import CELL, DIGITS, make_run, published_run, settings_of

from utils.report.report import make_report

LEARNED = DIGITS._replace(backward="MultiFC")


@pytest.fixture(scope="session")
def whole_report(tmp_path_factory):
    """The report, and its files, on two cells with two trials each, two published runs, and one that is cut off."""
    root = tmp_path_factory.mktemp("runs")
    for trial in (1, 2):
        make_run(root / f"ste-{trial}", DIGITS, trial, shift=trial)
        settings = settings_of(LEARNED, trial, weight_decay=5e-4)
        make_run(root / f"learned-{trial}", LEARNED, trial, shift=10 + trial, settings=settings)
        published_run(root, CELL, trial)
    make_run(root / "cut", LEARNED, 3, epochs=2, state="running", settings=settings_of(LEARNED, 3, weight_decay=5e-4))
    report, problems = make_report([root])
    assert problems == []
    report.write(root / "out" / "here")
    return report, root / "out" / "here"
