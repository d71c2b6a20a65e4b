"""The report: what it shows, what it writes, and what it says about what it cannot read."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import PROJECT
from run_folders import CELL, DIGITS, make_run, make_trial, published_run, rows_of, settings_of

from utils.errors import BadInput
from utils.report.csv_files import read_csv, write_csv
from utils.report.errata import errata_markdown
from utils.report.formatting import mean_variance
from utils.report.published import ERRATA_KINDS, errata, logged, logged_statistics, printed_best, published_settings
from utils.report.report import Report, make_report
from utils.report.trials import group_trials

LEARNED = DIGITS._replace(backward="MultiFC")


def test_the_table_of_runs_pools_the_last_ten_epochs_with_the_population_variance(tmp_path):
    make_run(tmp_path / "a" / "1", DIGITS)
    make_run(tmp_path / "b" / "2", DIGITS, trial=2, epochs=0, state="failed", settings=settings_of(DIGITS, 2, 12))
    make_run(tmp_path / "a" / "replaced" / "3", DIGITS)
    make_run(
        tmp_path / "a" / "4", settings={"model": "ResNet20", "dataset": "Digits", "optimizer": "SGD-M", "trial": 1}, epochs=1
    )
    report, problems = make_report([tmp_path])
    assert problems == []
    markdown = report.markdown()
    last = np.arange(53, 63)
    one, two, base = rows_of(markdown, "Other runs")
    pooled = f"{last.mean():.3f} ({last.var():.3f})"
    assert list(one.values())[:9] == ["ResNet20 Digits", "dorefa SGD STE", "1", "12", "62.00", "62.00", pooled, "2.0", "done"]
    assert (two["epochs"], two["test accuracy"], two["not averaged, because"]) == ("0", "", "failed, 0 of 12 epochs")
    assert (base["run"], base["last 10 mean (variance)"]) == ("full precision", "51.000 (0.000)")
    assert "Errata" not in markdown


def test_the_table_of_runs_names_nets_and_layers_in_full_precision(tmp_path):
    """torchvision's ResNet18 is none of the published nets; a published cell with kept layers says so."""
    net = CELL._replace(model="torchvision:resnet18")
    make_run(tmp_path / "1", net)
    make_run(tmp_path / "2", net, settings=settings_of(net, epochs=12, keep=["conv1", "fc"]))
    make_run(tmp_path / "3", epochs=100, shift=-51, settings=settings_of(CELL, epochs=100, keep=["fc"]))
    report, _ = make_report([tmp_path])
    rows = rows_of(report.markdown(), "Other runs")
    assert [(row["net"], row["run"]) for row in rows] == [
        ("torchvision:resnet18 CIFAR10", "dorefa SGD STE"),
        ("torchvision:resnet18 CIFAR10", "dorefa SGD STE (keep conv1 fc)"),
    ]
    (ours,) = [row for row in rows_of(report.markdown(), "Table 1") if row["ours"]]
    assert ours["method"].startswith("dorefa SGD STE (")
    assert "keep fc" in ours["method"]
    report.write(tmp_path / "out")
    again, problems = make_report([tmp_path / "out" / "runs.csv.xz"])
    assert problems == []
    assert [(group.cell, group.label) for group in again.groups] == [(group.cell, group.label) for group in report.groups]


def test_paper_logs_and_ours_stand_side_by_side(tmp_path):
    cell = CELL._replace(model="ResNet56", dataset="CIFAR100")
    for trial in (1, 2, 3):
        published_run(tmp_path / "a", cell, trial)
    for trial in (4, 5):
        published_run(tmp_path / "b", cell, trial)  # another machine
        published_run(tmp_path / "old", cell, trial, shift=20, old=True)
    published_run(tmp_path / "c", cell, 1, shift=1)  # the same trial twice
    make_run(tmp_path / "c" / "short", cell, trial=6)
    early, why = settings_of(cell, 7, 100), "alpha fell below 1e-06 (--lr-adjust adaptive)"
    make_run(tmp_path / "c" / "early", cell, trial=7, settings=early, ended_early=why)
    markdown = make_report([tmp_path / name for name in ("a", "b", "c", "old")])[0].markdown()
    ours, old, *rest = rows_of(markdown, "Table 2")
    assert (ours["method"], ours["paper"], ours["verdict"]) == ("dorefa SGD STE", "42.265 (8.143)", "within")
    assert ours["logs"] == ours["ours"] == "42.265 (8.143), n = 5"
    assert (old["method"], old["verdict"]) == ("dorefa SGD STE (no record)", "above")
    assert len(rest) == 13
    assert {row["verdict"] for row in rest} == {"not run"}
    others = {row["trial"]: row for row in rows_of(markdown, "Other runs")}
    assert (others["6"]["run"], others["6"]["epochs"]) == ("dorefa SGD STE (epochs 12)", "12")
    left_out = {trial: row["not averaged, because"] for trial, row in others.items()}
    assert left_out["6"] == ""
    assert left_out["7"] == f"12 epochs, not 100: {why}"
    assert left_out["1"].startswith("the same trial as")
    best = rows_of(markdown, "Table 2, ours in detail")[0]
    assert best["best, ours"] == best["best, logs"] == "47.368 (0.147)"
    assert errata_markdown(errata()) in markdown


def test_short_runs_of_published_cells_are_compared_with_each_other_and_with_nothing_published(tmp_path):
    learned, trials = CELL._replace(backward="MultiFC"), []
    for cell, epochs in ((CELL, 100), (learned, 100), (CELL, 12), (learned, 12)):
        for number in (1, 2):
            settings = published_settings(cell) | {"trial": number, "epochs": epochs, "seed": 0}
            trials.append(make_trial(50.0 + number + np.arange(epochs) % 5, cell, number, settings=settings))
    trials.append(make_trial([60.0] * 12, CELL, settings=published_settings(CELL) | {"epochs": 12, "init_lr": 0.1, "seed": 0}))
    markdown = Report(trials, *group_trials(trials, published_settings)).markdown()
    assert [row["method"] for row in rows_of(markdown, "Table 1 ") if row["ours"]] == ["dorefa SGD STE", "dorefa SGD MultiFC"]
    assert [row["method"] for row in rows_of(markdown, "Table 1, ours")] == ["dorefa SGD STE", "dorefa SGD MultiFC"]
    short = ["dorefa SGD STE (epochs 12)", "dorefa SGD MultiFC (epochs 12)", "dorefa SGD STE (epochs 12, init_lr 0.1)"]
    others = rows_of(markdown, "Other cells")
    assert sorted(row["method"] for row in others) == sorted(short)
    assert "best, paper" not in others[0]
    assert [row["run"] for row in rows_of(markdown, "Other runs")] == [*[short[0]] * 2, *[short[1]] * 2, short[2]]
    claims = rows_of(markdown, "Method minus baseline")
    assert [(row["method"], row["baseline"], bool(row["logs"])) for row in claims] == [
        ("dorefa SGD MultiFC", "STE", True),
        ("dorefa SGD MultiFC (epochs 12)", "STE (epochs 12)", False),
    ]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_accuracy_that_is_not_finite_is_said_to_be_so(wrong, tmp_path, tally):
    """In a table of published cells, in the claims and in the details; no picture fails on it. Infinity is no percentage."""
    learned, trials = CELL._replace(backward="MultiFC"), []
    for cell in (CELL, learned, DIGITS, LEARNED):
        for number in (1, 2, 3):
            acc = np.full(100, 80.0 + number)
            acc[95] = wrong if number == 3 and cell.backward == "MultiFC" else acc[95]
            trials.append(make_trial(acc, cell, number, settings=settings_of(cell, number, 100)))
    write_csv(trials, tmp_path / "runs.csv")
    if np.isinf(wrong):
        with pytest.raises(BadInput, match=f"test_acc must be a percentage, not {wrong}"):
            make_report([tmp_path / "runs.csv"])
    else:
        trials = read_csv(tmp_path / "runs.csv")
    report = Report(trials, *group_trials(trials, published_settings))
    markdown = report.markdown()
    rows = {row["method"].split(" (")[0]: row for row in rows_of(markdown, "Table 1")}
    odd, fine = rows["dorefa SGD MultiFC"], rows["dorefa SGD STE"]
    assert (odd["ours"], odd["ours - logs"], odd["verdict"]) == ("not finite, n = 3", "", "not finite")
    assert fine["verdict"] in ("within", "above", "below")
    assert [row["ours"] for row in rows_of(markdown, "Method minus baseline")] == ["not finite"] * 2
    for title in ("Table 1, ours in detail", "Other cells, over their trials"):
        details = {row["method"].split(" (")[0]: row for row in rows_of(markdown, title)}
        assert details["dorefa SGD MultiFC"]["last 10 mean (variance)"] == "not finite"
        assert details["dorefa SGD MultiFC"]["final"] == "82.00"
    runs = [row for row in rows_of(markdown, "Other runs") if row["run"] == "dorefa SGD MultiFC"]
    assert [row["last 10 mean (variance)"] for row in runs] == ["81.000 (0.000)", "82.000 (0.000)", "not finite"]
    if wrong == np.inf:  # drawing takes seconds
        report.write(tmp_path / "out")
        assert (tmp_path / "out" / "table1.png").stat().st_size
    tally("accuracy that is not finite: the report says so; infinity in a CSV file is refused")


def test_claims_and_fairness(whole_report):
    report, _ = whole_report
    (claim,) = rows_of(report.markdown(), "Method minus baseline")
    assert claim["n"] == "2, 2"
    assert re.fullmatch(r"\+10\.000, p = 0\.005: higher", claim["ours"])  # 1 - t / sqrt(2 + t^2) with t = 10 / sqrt(1 / 2)
    (difference,) = rows_of(report.markdown(), "Fairness")
    assert (difference["setting"], difference["its value"], difference["the baseline's"]) == ("weight_decay", "0.0005", "0.0")


def test_a_method_without_a_comparable_baseline_is_named_and_not_compared(tmp_path):
    make_run(tmp_path / "ste", DIGITS, settings=settings_of(DIGITS, bits=2))
    make_run(tmp_path / "learned", LEARNED, settings=settings_of(LEARNED, pretrained="none"))
    text = make_report([tmp_path])[0].markdown()
    expected = f"{LEARNED} (from scratch) (the closest differs in bits, pretrained)."
    assert f"## Method minus baseline\n\nWithout a comparable baseline, and so without a difference: {expected}" in text
    assert "## Fairness" not in text


def test_the_files(whole_report):
    report, folder = whole_report
    assert (folder / "report.md").read_text() == report.markdown(with_pictures=True) + "\n"
    tables = ("table1", "table1_details", "other_runs", "other_cells", "claims", "fairness")
    pictures = ("table1", "figure3", "curves_ResNet20_CIFAR10_dorefa_SGD", "curves", "left_out")
    names = {f"{name}{suffix}" for name in tables for suffix in (".csv", ".tex")}
    names |= {f"{name}{suffix}" for name in pictures for suffix in (".png", ".svg")}
    names |= {"report.md", "report.html", "errata.csv", "runs.csv.xz", "files.json"}
    assert {path.name for path in folder.iterdir()} == names
    for name in pictures:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{name}.svg").read_text()
    with open(folder / "table1.csv", newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["backward"], first["ours_n"], first["verdict"]) == ("STE", "2", "within")
    assert float(first["ours_mean"]) == pytest.approx(float(first["logs_mean"]))
    with open(folder / "errata.csv", newline="") as file:
        kinds = {row["kind"] for row in csv.DictReader(file)}
    assert {"mean", "label", "trials", "schedule", "documented"} < kinds == set(ERRATA_KINDS)


def test_the_written_runs_give_the_same_report(whole_report):
    report, folder = whole_report
    again, problems = make_report([folder / "runs.csv.xz"])
    assert problems == []
    for title in ("Table 1", "Other cells", "Method minus baseline", "Fairness"):
        assert rows_of(again.markdown(), title) == rows_of(report.markdown(), title)


def test_the_published_logs_are_within_themselves(tmp_path):
    write_csv((trial for trials in logged().values() for trial in trials), tmp_path / "logs.csv.xz")
    report, problems = make_report([tmp_path / "logs.csv.xz"])
    assert problems == []
    rows = [row for table in (1, 2) for row in rows_of(report.markdown(), f"Table {table} ")]
    assert len(rows) == 70
    assert [row["ours"] for row in rows] == [row["logs"] for row in rows]
    verdicts = [row["verdict"] for row in rows]
    assert {name: verdicts.count(name) for name in set(verdicts)} == {"within": 64, "not run": 5, "too few trials": 1}


@pytest.mark.parametrize(
    ("statement", "unneeded"),
    [
        ("from utils.report.report import make_report", ("matplotlib", "scipy", "torchvision")),
        ("from utils.report.report import make_report; make_report([sys.argv[1]])[0].markdown()", ("matplotlib", "scipy")),
        ("import utils.report.statistics", ("torch", "pandas", "utils.cli", "utils.tables", "utils.run")),
    ],
)
def test_a_report_imports_only_what_it_needs(statement, unneeded, tmp_path):
    """matplotlib is for pictures, scipy for a test of two or more trials a side."""
    make_run(tmp_path / "a", DIGITS)
    make_run(tmp_path / "b", LEARNED)
    code = f"import sys; {statement}; print(*(name for name in {unneeded} if name in sys.modules))"
    command = [sys.executable, "-c", code, tmp_path]
    assert subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.split() == []


def test_nothing_to_report_is_one_line(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(BadInput, match=r"run\.json is damaged.*; .*absent") as error:
        make_report([tmp_path, tmp_path / "absent"])
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_named_once_and_the_rest_reported(call_main, tmp_path):
    make_run(tmp_path / "good", DIGITS)
    make_run(tmp_path / "bad", DIGITS)
    (tmp_path / "bad" / "run.json").write_text("{")
    outcome = call_main("report", tmp_path, tmp_path / "absent", "--out", tmp_path / "out")
    assert outcome.code == 0
    assert "| dorefa SGD STE |" in outcome.out
    assert (tmp_path / "out" / "report.md").read_text().startswith(outcome.out)  # what is printed lacks the pictures
    bad, absent, wrote = outcome.err.splitlines()
    assert wrote == f"wrote {tmp_path / 'out'}: report.html, report.md, tables and pictures"
    assert "bad/run.json" in bad
    assert "absent" in absent


def test_a_folder_that_cannot_be_written(call_main, tmp_path):
    make_run(tmp_path / "a", DIGITS)
    (tmp_path / "file").write_text("")
    outcome = call_main("report", tmp_path, "--out", tmp_path / "file")
    assert outcome.code == 2
    assert "--out" in outcome.err


def test_a_claim_about_the_logs_is_the_method_minus_its_baseline():
    ste = CELL._replace(model="ResNet32")
    learned = ste._replace(backward="FC-Grad")
    trials = [make_trial([80.0] * 100, cell, settings=published_settings(cell)) for cell in (ste, learned)]
    (claim,) = rows_of(Report(trials, *group_trials(trials, published_settings)).markdown(), "Method minus baseline")
    difference = logged_statistics(learned).mean - logged_statistics(ste).mean
    assert (claim["method"], claim["baseline"]) == ("dorefa SGD FC-Grad", "STE")
    assert claim["logs"].startswith(f"{difference:+.3f}, p = ")
    assert claim["logs"].endswith(": higher") == (difference > 0)


def test_the_printed_best_epoch_stands_beside_ours():
    trials = [make_trial([80.0] * 100, CELL, settings=published_settings(CELL))]
    (row,) = rows_of(Report(trials, *group_trials(trials, published_settings)).markdown(), "Table 1, ours in detail")
    assert (row["best, paper"], row["best, ours"]) == (mean_variance(*printed_best()[CELL]), "80.000 (0.000)")
