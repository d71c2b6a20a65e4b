"""The published numbers, and the errata: what the program finds, and that its files are what it finds."""

import csv
import shutil

import numpy as np
import pytest

from figs.published.errata import first_epoch_after_drop, logged_source, write
from utils.report.errata import errata_markdown, errata_rows
from utils.report.published import (
    ERRATA_KINDS,
    FOLDER,
    Erratum,
    errata,
    logged,
    logged_statistics,
    printed,
    printed_best,
    published_settings,
)
from utils.tables.cells import Cell


def cell(text):
    model, dataset, quantizer, optimizer, backward = text.split()
    return Cell(model, dataset, quantizer, backward, optimizer)


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
    found = logged_statistics(cell("ResNet56 CIFAR100 dorefa SGD STE"))
    assert f"{found.mean:.3f} ({found.variance:.3f})" == "42.265 (8.143)"
    assert found.n == 5
    assert logged_statistics(cell("ResNet20 CIFAR10 dorefa SGD FC-Grad")) is None


def test_the_printed_best_is_of_resnet20_and_near_the_logs():
    assert {cell[:2] for cell in printed_best()} == {("ResNet20", "CIFAR10")}
    assert set(printed_best()) == {cell for cell in printed() if cell.model == "ResNet20"}
    for where, (mean, _) in printed_best().items():
        if where in logged():
            assert logged_statistics(where).best_mean == pytest.approx(mean, abs=0.25)


def test_the_settings_of_a_printed_cell():
    found = published_settings(cell("ResNet44 CIFAR10 BWN Adam LSTMFC"))
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
    begun_as_ste = published_settings(cell("ResNet20 CIFAR10 dorefa SGD FC-Grad"))
    assert (begun_as_ste["meta_init"], begun_as_ste["drop_last"]) == ("identity", True)
    assert published_settings(cell("ResNet110 CIFAR100 BWN SGD STE"))["lr_adjust"] == 61
    assert published_settings(cell("ResNet20 Digits BWN Adam LSTMFC")) is None


def test_three_means_are_printed_one_too_low():
    wanted = {
        "ResNet32 CIFAR10 dorefa Adam STE": (90.172, 91.172),
        "ResNet44 CIFAR10 dorefa Adam STE": (91.079, 92.079),
        "ResNet44 CIFAR10 BWN Adam STE": (91.121, 92.121),
    }
    found = {str(where): (e.printed_mean, round(e.logs_mean, 3)) for where, e in of("mean").items()}
    assert found == wanted
    assert all(erratum.finding.startswith("printed 1.000 too low") for erratum in of("mean").values())
    assert [logged_source(cell(text)).count for text in wanted] == [5, 3, 3]


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
            wanted[cell(f"{net} {optimizer} {row}")] = donor
    assert {where: logged_source(where).cell.backward for where in of("label")} == wanted


def test_the_trial_counts():
    trials = of("trials")
    assert {where for where in printed() if where.model in ("ResNet20", "ResNet44")} == set(trials)
    for where, erratum in trials.items():
        if where.model == "ResNet44":
            assert (logged_source(where).count, len(logged()[where])) == (3, 5)
            assert erratum.finding == "trials 1-3 are pooled, 5 are logged"
        else:
            assert logged_source(where) is None
    counts = {where: len(logged().get(where, ())) for where in trials if where.model == "ResNet20"}
    assert {count for where, count in counts.items() if where.quantizer == "BWN"} == {3}
    dorefa = {f"{where.backward} {where.optimizer}": n for where, n in counts.items() if where.quantizer == "dorefa" and n}
    assert dorefa == {"STE SGD": 2, "MultiFC SGD": 1, "MultiFC Adam": 3}


def test_every_other_cell_is_reproduced_by_all_of_its_own_trials():
    wrong = of("mean").keys() | of("label").keys() | of("trials").keys()
    for where in printed().keys() - wrong:
        found = logged_source(where)
        assert (found.cell, found.count, found.shift) == (where, 5, 0)


def test_six_ste_baselines_drop_the_learning_rate_once():
    six = {where for where in printed() if where.model == "ResNet110" and where.backward == "STE"}
    six |= {cell(f"ResNet56 CIFAR100 BWN {optimizer} STE") for optimizer in ("SGD", "Adam")}
    assert set(of("schedule")) == six
    for where, trials in logged().items():
        assert first_epoch_after_drop(trials) in ((62, 63) if where in six else range(27, 34))  # 61 epochs done; 30


def test_the_results_page_swaps_two_rows_of_resnet20():
    """The logs have 3 trials of BWN and none of dorefa."""
    page = {str(where): erratum for where, erratum in of("page").items()}
    printed_and_on_the_page = {
        "ResNet20 CIFAR10 dorefa Adam FC-Grad": ("89.962 (0.068)", "89.979 (0.103)"),
        "ResNet20 CIFAR10 dorefa Adam LSTMFC": ("89.979 (0.103)", "89.962 (0.068)"),
        "ResNet20 CIFAR10 BWN Adam FC-Grad": ("90.042 (0.098)", "90.036 (0.109)"),
        "ResNet20 CIFAR10 BWN Adam LSTMFC": ("90.036 (0.109)", "90.042 (0.098)"),
    }
    assert page.keys() == printed_and_on_the_page.keys()
    for where, (paper, other) in printed_and_on_the_page.items():
        assert f"{page[where].printed_mean:.3f} ({page[where].printed_variance:.3f})" == paper
        assert f"the results page prints {other}, " in page[where].finding
        assert ("no trial is logged" in page[where].finding) == ("dorefa" in where) == np.isnan(page[where].logs_mean)
    fc_grad, lstm = (page[f"ResNet20 CIFAR10 BWN Adam {name}"] for name in ("FC-Grad", "LSTMFC"))
    assert "the mean is nearer to the page's, the variance to the page's" in fc_grad.finding  # 89.912 (0.134)
    assert "the mean is nearer to the paper's, the variance to the page's" in lstm.finding  # 90.022 (0.056)
    assert (round(fc_grad.logs_mean, 3), round(lstm.logs_mean, 3)) == (89.912, 90.022)
    assert (round(fc_grad.logs_variance, 3), round(lstm.logs_variance, 3)) == (0.134, 0.056)


def test_the_drops_of_table_4_are_not_those_of_table_1():
    findings = {erratum.model: erratum.finding for erratum in of("drop").values()}
    for net, drop, by_table_1, by_best in (
        ("ResNet20", "0.70", "1.458", "0.96"),
        ("ResNet32", "0.39", "1.096", "0.55"),
        ("ResNet44", "0.08", "1.453", "1.04"),
    ):
        assert f"a drop of {drop};" in findings[net]
        assert f" = {by_table_1} (BWN Adam FC-Grad)" in findings[net]
        assert findings[net].endswith(f" = {by_best}")


def test_the_program_writes_the_files_that_are_there(tmp_path):
    for name in ("README.md", "published_table4.csv"):
        shutil.copy(FOLDER / name, tmp_path)
    (tmp_path / "README.md").write_text((tmp_path / "README.md").read_text().replace("| mean |", "| changed |"))
    write(tmp_path)
    for name in ("README.md", "errata.csv"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text()


def test_the_errata_as_data_and_for_reading():
    with open(FOLDER / "errata.csv", newline="") as file:
        assert tuple(next(csv.reader(file))) == Erratum._fields
    assert {erratum.kind for erratum in errata()} == set(ERRATA_KINDS)
    rows = errata_rows(errata())
    assert ("mean", "ResNet32 CIFAR10 dorefa Adam STE", "printed 1.000 too low", "90.172 (0.077)", "91.172 (0.077)") in rows
    assert ("trials", "ResNet44 CIFAR10: all 14 cells", "trials 1-3 are pooled, 5 are logged", "", "") in rows
    assert errata_markdown(errata()) in (FOLDER / "README.md").read_text()
    numbers = [erratum.logs_mean for erratum in errata() if erratum.kind in ("mean", "label")]
    assert np.isfinite(numbers).all()


def test_every_column_of_the_published_files_is_explained():
    readme = (FOLDER / "README.md").read_text()
    explained = {word.strip() for head in readme.split("| column | meaning |")[1].splitlines() for word in head.split("|")[1:2]}
    explained = {part for words in explained for part in words.replace(" or ", ", ").split(", ")}
    for path in FOLDER.glob("*.csv"):
        assert f"`{path.name}`" in readme
        assert set(path.read_text().splitlines()[0].split(",")) <= explained, path.name
