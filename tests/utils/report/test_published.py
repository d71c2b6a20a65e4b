"""The published numbers, and where tables and logs disagree."""

import numpy as np
import pytest

from figs.published.errata import KINDS, errata, errata_records, errata_table, first_epoch_after_drop, origin
from utils.report.published import FOLDER, logged, logged_statistics, printed, printed_best, published_settings
from utils.report.tables import errata_markdown
from utils.tables.cells import Cell


def cell(text):
    return Cell(*text.split())


def of(kind):
    return {erratum.cell: erratum for erratum in errata() if erratum.kind == kind}


def test_seventy_cells_and_304_trials_of_100_epochs():
    assert len(printed()) == 70
    assert [sum(value.table == table for value in printed().values()) for table in (1, 2)] == [42, 28]
    assert sum(map(len, logged().values())) == 304
    assert set(logged()) < set(printed())
    for trials in logged().values():
        assert {trial.epochs for trial in trials} == {100}
        assert [trial.number for trial in trials] == sorted({trial.number for trial in trials})


def test_the_papers_statistic_to_the_last_digit():
    found = logged_statistics(cell("ResNet56 CIFAR100 dorefa STE SGD"))
    assert f"{found.mean:.3f} ({found.variance:.3f})" == "42.265 (8.143)"
    assert found.n == 5
    assert logged_statistics(cell("ResNet20 CIFAR10 dorefa FC-Grad SGD")) is None


def test_the_printed_best_is_of_resnet20_and_near_the_logs():
    assert {cell[:2] for cell in printed_best()} == {("ResNet20", "CIFAR10")}
    assert set(printed_best()) == {cell for cell in printed() if cell.model == "ResNet20"}
    for where, (mean, _) in printed_best().items():
        if where in logged():
            assert logged_statistics(where).best_mean == pytest.approx(mean, abs=0.25)


def test_the_settings_of_a_printed_cell():
    found = published_settings(cell("ResNet44 CIFAR10 BWN LSTMFC Adam"))
    wanted = {
        "model": "ResNet44",
        "epochs": 100,
        "lr_adjust": 30,
        "weight_decay": 5e-4,
        "hidden_size": 100,
        "num_lstm": 1,
        "bits": 1,
    }
    assert {name: found[name] for name in wanted} == wanted
    begun_as_ste = published_settings(cell("ResNet20 CIFAR10 dorefa FC-Grad SGD"))
    assert (begun_as_ste["meta_init"], begun_as_ste["drop_last"]) == ("identity", True)
    assert published_settings(cell("ResNet110 CIFAR100 BWN STE SGD"))["lr_adjust"] == 61
    assert published_settings(cell("ResNet20 Digits BWN LSTMFC Adam")) is None


def test_three_means_are_printed_one_too_low():
    wanted = {
        "ResNet32 CIFAR10 dorefa STE Adam": (90.172, 91.172),
        "ResNet44 CIFAR10 dorefa STE Adam": (91.079, 92.079),
        "ResNet44 CIFAR10 BWN STE Adam": (91.121, 92.121),
    }
    found = {str(where): (e.printed_mean, round(e.logs_mean, 3)) for where, e in of("mean").items()}
    assert found == wanted
    assert all(erratum.finding.startswith("printed 1.000 too low") for erratum in of("mean").values())
    assert [origin(cell(text)).count for text in wanted] == [5, 3, 3]


def test_the_swapped_labels():
    pairs = {  # net, data set and quantizer, optimizer: the two rows
        ("ResNet32 CIFAR10 dorefa", "SGD"): ("MultiFC", "LSTMFC"),
        ("ResNet32 CIFAR10 dorefa", "Adam"): ("MultiFC", "LSTMFC"),
        ("ResNet44 CIFAR10 BWN", "SGD"): ("LSTMFC", "FC-Grad"),
        ("ResNet56 CIFAR100 BWN", "SGD"): ("LSTMFC", "FC-Grad"),
    }
    wanted = {}
    for (net, optimizer), (one, other) in pairs.items():
        for row, donor in ((one, other), (other, one)):
            wanted[cell(f"{net} {row} {optimizer}")] = donor
    assert {where: origin(where).donor.backward for where in of("label")} == wanted


def test_the_trial_counts():
    trials = of("trials")
    assert {where for where in printed() if where.model in ("ResNet20", "ResNet44")} == set(trials)
    for where, erratum in trials.items():
        if where.model == "ResNet44":
            assert (origin(where).count, len(logged()[where])) == (3, 5)
            assert erratum.finding == "trials 1-3 are pooled, 5 are logged"
        else:
            assert origin(where) is None
    counts = {where: len(logged().get(where, ())) for where in trials if where.model == "ResNet20"}
    assert {count for where, count in counts.items() if where.quantizer == "BWN"} == {3}
    dorefa = {f"{where.backward} {where.optimizer}": n for where, n in counts.items() if where.quantizer == "dorefa" and n}
    assert dorefa == {"STE SGD": 2, "MultiFC SGD": 1, "MultiFC Adam": 3}


def test_every_other_cell_is_reproduced_by_all_of_its_own_trials():
    wrong = of("mean").keys() | of("label").keys() | of("trials").keys()
    for where in printed().keys() - wrong:
        found = origin(where)
        assert (found.donor, found.count, found.shift) == (where, 5, 0)


def test_six_ste_baselines_drop_the_learning_rate_once():
    six = {where for where in printed() if where.model == "ResNet110" and where.backward == "STE"}
    six |= {cell(f"ResNet56 CIFAR100 BWN STE {optimizer}") for optimizer in ("SGD", "Adam")}
    assert set(of("schedule")) == six
    for where, trials in logged().items():
        assert first_epoch_after_drop(trials) in ((62, 63) if where in six else range(27, 34))  # 61 epochs done; 30


def test_the_errata_as_data_and_for_reading():
    records = errata_records()
    assert len({tuple(record) for record in records}) == 1
    assert {record["kind"] for record in records} == set(KINDS)
    rows = errata_table()
    assert ("mean", "ResNet32 CIFAR10 dorefa STE Adam", "printed 1.000 too low", "90.172 (0.077)", "91.172 (0.077)") in rows
    assert ("trials", "ResNet44 CIFAR10: all 14 cells", "trials 1-3 are pooled, 5 are logged", "", "") in rows
    assert errata_markdown() in (FOLDER / "README.md").read_text()
    numbers = [record["logs_mean"] for record in records if record["kind"] in ("mean", "label")]
    assert np.isfinite(numbers).all()
