"""From a manifest to a report: a table of two cells, two trials of two epochs, on handwritten digits."""

import csv

import pytest
from conftest import PROJECT

METHODS = ("STE", "FC-Grad")


@pytest.mark.slow
def test_a_table_is_run_and_reported(call_main, tmp_path):
    results, out = tmp_path / "Results", tmp_path / "report"
    flags = ["--manifest", PROJECT / "scripts" / "digits.toml", "-n", "2", "--pretrained-root", "none", "--results-root", results]
    table = ["digits", *flags, "--set", "batch-size=128"]
    assert call_main("tables", "run", *table).code == 0
    status = call_main("tables", "status", *table).out
    for method in METHODS:
        assert f"| ResNet20 Digits dorefa SGD {method} |  | 2 |" in status
    report = call_main("report", results, "--out", out)
    assert report.code == 0, report.err
    assert "4 trials counted, 0 left out" in report.out
    with open(out / "other_cells.csv", newline="") as file:
        cells = {row["backward"]: row for row in csv.DictReader(file)}
    for method in METHODS:
        accuracies = []
        for path in results.rglob("test-acc.txt"):
            if ("Baseline" in path.parent.name) == (method == "STE"):
                accuracies += [float(line.split(",")[1]) for line in path.read_text().splitlines()]
        assert len(accuracies) == 4
        assert cells[method]["n"] == "2"
        assert abs(float(cells[method]["mean"]) - sum(accuracies) / 4) < 1e-4
    label = "(from scratch, lr_adjust 10)"
    assert f"| ResNet20 Digits | dorefa SGD FC-Grad {label} | STE {label} | 2, 2 |" in report.out  # the claim, by Welch's test
    for name in ("report.md", "curves.png", "curves.svg", "runs.csv.xz", "claims.tex"):
        assert (out / name).stat().st_size > 100, name
    again = call_main("report", out / "runs.csv.xz").out  # the compact form stands for the runs
    assert "4 trials counted, 0 left out" in again
