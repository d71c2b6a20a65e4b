"""Logs without a record whose folders' names say that they are not of the published runs' kind."""

import pytest
from run_folders import CELL, DIGITS, make_trial, rows_of, write_logs

from utils.report import published
from utils.report.published import is_published, published_settings
from utils.report.reading import read_folder
from utils.report.report import make_report

STE = "Baseline-dorefa-optimizer-SGD-{}-trial-{}"
MULTIFC = "Meta-MLPFC-Nonlinear-{}-dorefa-SGD-{}-trial-{}"


def logs(root, name, net="ResNet20-CIFAR10", epochs=100):
    return write_logs(root / net / "runs" / name, range(epochs), [1.0] * epochs, range(epochs), per_epoch=1)


@pytest.mark.parametrize(
    ("net", "name", "other"),
    [
        ("ResNet20-CIFAR10", STE.format("1bits", 1), ""),
        ("ResNet20-CIFAR10", STE.format("1bits-lr-30", 1), ""),
        ("ResNet110-CIFAR100", STE.format("1bits-lr-61", 1), ""),  # as published: of six STE cells
        ("ResNet20-CIFAR10", MULTIFC.format("None-hidden-size-100-nfc-3", "1bits-lr-30", 1), ""),
        ("ResNet20-CIFAR10", STE.format("2bits", 1), "2bits"),
        ("ResNet20-CIFAR10", STE.format("1bits-lr-60", 1), "lr-60"),
        ("ResNet20-CIFAR10", STE.format("1bits-lr-30-keep-conv1+fc", 1), "lr-30-keep-conv1+fc"),
        ("ResNet20-CIFAR10", STE.format("1bits-lr-30-mine", 1), "lr-30-mine"),
        (
            "ResNet20-CIFAR10",
            MULTIFC.format("None-hidden-size-100-nfc-2", "2bits-lr-30", 1),
            "Nonlinear-None-hidden-size-100-nfc-2-2bits",
        ),
        ("ResNet20-CIFAR10", MULTIFC.format("tanh-hidden-size-100-nfc-3", "1bits", 1), "Nonlinear-tanh-hidden-size-100-nfc-3"),
        ("ResNet20-CIFAR10", "Baseline-TTQ-optimizer-SGD-2bits-lr-30-trial-1", ""),  # a quantizer with 2 bits
    ],
)
def test_what_a_name_says_beyond_the_published_ones(net, name, other, tmp_path):
    trial = read_folder(logs(tmp_path, name, net))
    assert trial.settings == {"folder": name.removesuffix("-trial-1")} | ({"other_form": other} if other else {})
    assert is_published(trial) == (not other and "TTQ" not in name)


def test_they_stand_beside_no_printed_number_and_their_labels_name_them(tmp_path):
    names = [
        STE.format("2bits-lr-60-keep-fc", 1),
        STE.format("2bits-lr-60-keep-fc", 2),
        MULTIFC.format("None-hidden-size-100", "1bits", 1),
    ]
    for name in names:
        logs(tmp_path / "R", name)
    report, problems = make_report([tmp_path / "R"])
    assert problems == []
    label = "no record: Baseline-dorefa-optimizer-SGD-2bits-lr-60-keep-fc"
    for again in (report, None):
        if again is None:
            report.write(tmp_path / "out")
            again, _ = make_report([tmp_path / "out" / "runs.csv.xz"])
        text = again.markdown()
        in_table = [row["method"] for row in rows_of(text, "Table 1 ") if row["ours"]]
        assert in_table == ["dorefa SGD MultiFC (no record)"]
        assert f"dorefa SGD STE ({label})" in [row["run"] for row in rows_of(text, "Other runs")]
        assert "## Method minus baseline\n\nWithout a comparable baseline" in text
        assert "the closest differs in other_form" in text


def test_a_cell_that_is_in_the_manifest_but_not_printed_stands_beside_no_printed_number(monkeypatch):
    trial = make_trial(range(100), DIGITS, settings=published_settings(CELL) | {"dataset": "Digits"})
    assert is_published(make_trial(range(100), settings=published_settings(CELL)))
    monkeypatch.setattr(published, "published_settings", lambda cell: trial.settings)
    assert not is_published(trial)
