"""Which methods count as learned, those of other programs among them."""

import pytest
from run_folders import DIGITS, make_run, make_trial, settings_of

from utils.choices import ESTIMATORS
from utils.report.report import make_report
from utils.report.trials import group_trials
from utils.report.verdicts import paired


@pytest.mark.parametrize(
    ("backward", "meta_lr", "learned"),
    [
        ("STE", None, False),
        ("STE", 1e-3, False),
        ("ProxQuant", None, False),
        ("full precision", 1e-3, False),
        ("MultiFC", 1e-3, True),
        ("MultiFC", None, True),
        ("Gain", 1e-3, True),
        ("Triangle", None, False),
    ],
)
def test_a_method_is_learned_by_its_name_or_if_that_is_unknown_by_its_record(backward, meta_lr, learned):
    cell = DIGITS._replace(backward=backward)
    trial = make_trial([1, 2], cell, settings=settings_of(cell, epochs=2, meta_lr=meta_lr))
    ste = make_trial([3, 4], DIGITS, settings=settings_of(DIGITS, epochs=2))
    ede = make_trial([3, 4], DIGITS._replace(backward="EDE"), settings=settings_of(DIGITS, epochs=2) | {"backward": "EDE"})
    group, *_ = groups = group_trials([trial, ste, ede], lambda cell: None)[0]
    assert group.is_learned == learned
    baselines = {other.cell.backward for one, other in paired(groups, lambda cell: None).pairs if one is group}
    of_fixed = set() if backward in ("STE", "full precision") else {"STE"}
    assert baselines == ({"STE", "EDE"} if learned else of_fixed)


def test_unknown_methods_are_named_in_one_line_and_registered_ones_are_not(tmp_path, monkeypatch, call_main):
    for number, backward in enumerate(("Triangle", "Gain", "STE", "MultiFC", "Gain"), 1):
        cell = DIGITS._replace(backward=backward)
        make_run(tmp_path / str(number), cell, number, settings=settings_of(cell, number, backward=backward))
    outcome = call_main("report", tmp_path)
    assert outcome.code == 0
    (line,) = outcome.err.splitlines()
    assert "unknown methods: Gain, Triangle; report with the program that trained them" in line
    for name in ("Triangle", "Gain"):
        monkeypatch.setitem(ESTIMATORS, name, ESTIMATORS["STE"])
    assert make_report([tmp_path])[1] == []
