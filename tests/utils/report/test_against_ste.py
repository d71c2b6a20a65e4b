"""Does the learned gradient help? Which STE cell a learned one is compared with, and what the report says."""

import numpy as np
import pytest
from run_folders import CELL, DIGITS, make_trial, rows_of, settings_of

from utils.report.against_ste import TITLE, against_ste_table, ste_groups
from utils.report.published import published_settings
from utils.report.report import Report
from utils.report.trials import group_trials
from utils.report.verdicts import welch_test


def trial(backward, val, test, number=1, optimizer="SGD", validation=500, **changes):
    """Two epochs; the first is the best by validation, and the last has the better test accuracy."""
    cell = DIGITS._replace(backward=backward, optimizer=optimizer)
    settings = settings_of(cell, number, 2, validation=validation, **{"init_lr": 1e-3, **changes})
    return make_trial([test, 95.0], cell, number, settings=settings, val_acc=np.array([val, 1.0]) if validation else np.empty(0))


def test_short_runs_of_a_published_net_are_compared_with_runs_of_the_same_length():
    """As EPOCHS=3 bash scripts/controls.sh leaves them: the published runs have 100 epochs."""
    cells = [CELL._replace(backward=backward) for backward in ("STE", "STE", "STE", "FC-Grad")]
    about = zip(cells, (1e-3, 1e-2, 1e-1, 1e-2), (2, 2, 3, 2), (60, 70, 90, 80), strict=True)
    trials = [
        make_trial(
            [val] * epochs,
            cell,
            settings=settings_of(cell, 1, epochs, validation=500, init_lr=lr),
            val_acc=np.full(epochs, float(val)),
        )
        for cell, lr, epochs, val in about
    ]
    report = Report(trials, *group_trials(trials, published_settings))
    (row,) = rows_of(report.markdown(), TITLE.replace("?", r"\?"))
    assert "epochs 2, init_lr 0.01" in row["learned"]
    assert (row["of"], row["STE's alpha"], row["difference"]) == ("2", "0.01", "+10.00")


def groups_of(*trials):
    return group_trials(trials, lambda cell: None)[0]


def rows(*trials):
    report = Report(list(trials), *group_trials(trials, lambda cell: None))
    return rows_of(report.markdown(), TITLE.replace("?", r"\?"))


def test_stes_best_is_chosen_by_validation_over_all_rates_and_optimizers():
    found = rows(
        trial("STE", 60, 90, init_lr=1e-3),
        trial("STE", 70, 50, init_lr=1e-2),
        trial("STE", 72, 55, 1, "SGD-M", init_lr=1e-2, weight_decay=5e-4),
        trial("STE", 71, 80, 1, "Adam", lr_adjust="cosine"),
        trial("STE-identity", 99, 99),
        trial("MultiFC", 1, 61),
    )
    (row,) = found
    assert (row["learned"], row["n"], row["learned, test"]) == ("dorefa SGD MultiFC (validation 500)", "1", "61.00")
    assert (row["best STE"], row["of"], row["STE's n"]) == ("SGD-M (init_lr 0.01, validation 500)", "4", "1")
    assert (row["STE, test"], row["difference"], row["verdict"]) == ("55.00", "+6.00", "too few trials")


def test_what_is_learned_is_known_from_the_record_whatever_the_names_of_other_programs():
    found = rows(
        trial("STE", 60, 90),
        trial("Triangle", 70, 50, meta_lr=None),
        trial("Gain", 71, 61, meta_lr=1e-3),
        trial("MultiFC", 1, 61),
    )
    assert {row["learned"] for row in found} == {"dorefa SGD Gain (validation 500)", "dorefa SGD MultiFC (validation 500)"}


def test_of_several_trials_the_means_are_compared_by_welchs_test():
    ste = [trial("STE", val, test, number, init_lr=0.1) for number, (val, test) in enumerate(((70, 50), (72, 53), (71, 52)), 1)]
    others = [trial("STE", 70.9, 99, number, init_lr=0.2) for number in (1, 2)]
    learned = [trial("FC-Grad", 1, test, number) for number, test in enumerate((61, 62), 1)]
    (row,) = rows(*ste, *others, *learned)
    claim = welch_test([61, 62], [50, 53, 52])
    assert claim.verdict == "higher"
    assert row["difference"] == f"+9.83, p = {claim.p:.2g}"
    assert (row["learned, test"], row["STE, test"], row["verdict"]) == ("61.50 (61.00, 62.00)", "51.67", "higher")


@pytest.mark.parametrize(
    "change",
    [
        {"validation": 400},
        {"bits": 2},
        {"batch_size": 64},
        {"seed": 1},
        {"keep": ["fc"]},
        {"precision": "bf16"},
        {"data_digest": "b"},
        {"base_model": "b"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_differs_in_more_than_its_steps_is_not_compared(change):
    known = {"data_digest": "a", "base_model": "a"}
    learned, ste = trial("MultiFC", 50, 50, **known), trial("STE", 60, 60, **known | change)
    (group, _) = groups = sorted(groups_of(learned, ste), key=lambda group: group.cell.backward)
    assert ste_groups(group, groups) == []
    (row,) = rows(learned, ste)
    assert (row["verdict"], row["of"]) == ("no STE run", "0")


def test_another_length_quantizer_net_or_data_is_not_compared():
    learned = trial("MultiFC", 50, 50)
    for change in ({"model": "ResNet32"}, {"dataset": "CIFAR10"}, {"quantizer": "BWN"}):
        ste = trial("STE", 60, 60)
        other = make_trial(ste.test_acc, ste.cell._replace(**change), settings=ste.settings | change, val_acc=ste.val_acc)
        assert {row["verdict"] for row in rows(learned, other)} == {"no STE run"}
    longer = settings_of(DIGITS, 1, 3, validation=500, init_lr=1e-3)
    ste = make_trial([60.0] * 3, settings=longer, cell=DIGITS, val_acc=np.array([60.0] * 3))
    assert [row["verdict"] for row in rows(learned, ste)] == ["no STE run"]


def test_without_validation_there_is_no_choice():
    groups = groups_of(trial("MultiFC", 0, 61, validation=None), trial("STE", 0, 90, validation=None))
    table = against_ste_table(groups)
    assert table.records == []
    assert table.note.startswith("1 learned cell has no validation images and cannot be compared")
    text = Report([], groups, []).markdown()
    assert table.note in text.split(f"## {TITLE}")[1].split("\n## ")[0]
    mixed = groups_of(trial("MultiFC", 0, 61, validation=None), trial("FC-Grad", 3, 4), trial("STE", 60, 90))
    note = against_ste_table(mixed).note
    assert "1 learned cell has no" in note
    assert note.endswith("Verdicts: too few trials 1.")


def test_a_report_without_a_learned_gradient_does_not_ask():
    groups = groups_of(trial("STE", 60, 90), trial("EDE", 60, 90))
    assert TITLE not in Report([], groups, []).markdown()
