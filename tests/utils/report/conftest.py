"""A report on a few runs, and its files."""

import pytest
from run_folders import CELL, DIGITS, layer_rows, make_run, published_run, settings_of, write_layers

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


@pytest.fixture(scope="session")
def report_with_layers(tmp_path_factory):
    """The report on runs with layers.csv and one without, and the folder into which it is written."""
    root = tmp_path_factory.mktemp("layers")
    for trial, cell in enumerate((DIGITS, LEARNED), 1):
        write_layers(make_run(root / f"{trial}", cell, trial, 6), layer_rows(6, learned=cell == LEARNED))
    make_run(root / "old", LEARNED, 9, 6, shift=1)
    unfinished = make_run(root / "unfinished", LEARNED, 4, epochs=2, state="running")
    write_layers(unfinished, layer_rows(3))
    report, problems = make_report([root])
    assert problems == []
    report.write(root / "out")
    return report, root / "out"
