"""The manifest: what it lists is what was printed, its protocols say what the logs and the text say, and mistakes are named."""

import csv
import re
import tomllib

import pytest

from utils import PROJECT
from utils.errors import BadInput
from utils.run.settings import TrainSettings
from utils.tables.cells import Cell
from utils.tables.manifest import MANIFEST, PROTOCOLS, read_manifest

PUBLISHED = PROJECT / "figs" / "published" / "published_tables.csv"


def printed():
    """Cell -> number of the table, "mean (variance)" as printed."""
    with PUBLISHED.open() as file:
        return {
            Cell(row["network"], row["dataset"], row["forward"], row["backward"], row["optimizer"]): (
                row["table"],
                f"{float(row['last10_mean']):.3f} ({float(row['last10_variance']):.3f})",
            )
            for row in csv.DictReader(file)
        }


def settings_of(protocol):
    """Every cell of the manifest -> its settings as `train` resolves them."""
    found = {}
    for table in read_manifest(MANIFEST, protocol).values():
        for row in table:
            found[row.cell] = TrainSettings.from_values(row.cell._asdict() | row.settings, "test")
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_manifest_lists_every_cell_with_its_printed_value(protocol):
    tables = read_manifest(MANIFEST, protocol)
    expected = printed()
    for name, number in (("table1", "1"), ("table2", "2")):
        assert [(row.cell, row.published) for row in tables[name]] == [
            (cell, value) for cell, (table, value) in expected.items() if table == number
        ]
    assert len(tables["table1"]) + len(tables["table2"]) == 70
    figure = {row.cell: row.published for row in tables["fig3"]}
    assert figure == {c: v for c, (_, v) in expected.items() if (c.model, c.quantizer) == ("ResNet20", "dorefa")}
    assert len(figure) == 8
    assert {row.trials for table in tables.values() for row in table} == {5}
    evidence = tables["evidence"]
    assert len(evidence) == 9
    assert all(row in tables["table1"] and row.cell.model == "ResNet20" for row in evidence)


def test_protocol_logs_is_what_the_logs_show(capfd):
    found = settings_of("logs")
    single_drop = {cell for cell, s in found.items() if s.lr_adjust != 30}
    assert single_drop == {
        Cell(model, "CIFAR100", quantizer, "STE", optimizer)
        for model, quantizer in (("ResNet110", "dorefa"), ("ResNet110", "BWN"), ("ResNet56", "BWN"))
        for optimizer in ("SGD", "Adam")
    }
    assert {found[cell].lr_adjust for cell in single_drop} == {61}
    for cell, s in found.items():
        learned = cell.backward != "STE"
        assert (s.epochs, s.batch_size, s.init_lr, s.bits, s.exp_spec) == (100, 128, 1e-3, 1, None)
        assert s.weight_decay == (5e-4 if cell.optimizer == "Adam" and learned else 0)
        assert (s.update_order, s.meta_lr, s.meta_lr_adjust) == (("notebook", 1e-3, False) if learned else (None,) * 3)
        assert s.num_fc == (3 if cell.backward == "MultiFC" else None)
        if cell.backward == "FC-Grad":
            assert s.meta_init == ("identity" if cell.model == "ResNet20" else "random")
    assert capfd.readouterr().err == ""  # no setting without effect


def test_protocol_paper_is_what_the_text_says(capfd):
    for cell, s in settings_of("paper").items():
        learned = cell.backward != "STE"
        assert (s.epochs, s.lr_adjust, s.exp_spec) == (100, 30, "paper")
        assert s.weight_decay == (5e-4 if cell.optimizer == "Adam" else 0)
        assert (s.update_order, s.meta_lr_adjust) == (("paper", True) if learned else (None, None))
        assert s.num_fc == (2 if cell.backward == "MultiFC" else None)
        assert s.meta_init in (None, "random")
    assert capfd.readouterr().err == ""


SMALL = """
trials = 2
[settings]
epochs = 3
[[rules]]
why = "a reason"
when = { backward = "STE" }
set = { lr-adjust = 7 }
[tables.one]
dataset = "Digits"
cells = [
  { model = "ResNet20", quantizer = "dorefa", backward = "STE", optimizer = "SGD", trials = 4 },
  { model = "ResNet20", quantizer = "dorefa", backward = "FC-Grad", optimizer = "SGD", published = "1.000 (2.000)" },
]
"""


def write(tmp_path, text):
    path = tmp_path / "small.toml"
    path.write_text(text)
    return path


def test_rules_trials_and_published_values(tmp_path):
    tables = read_manifest(write(tmp_path, SMALL), "logs")
    first, second = tables["one"]
    assert first.cell == Cell("ResNet20", "Digits", "dorefa", "STE", "SGD")
    assert (first.trials, first.settings, first.published) == (4, {"epochs": 3, "lr-adjust": 7}, None)
    assert (second.trials, second.settings, second.published) == (2, {"epochs": 3}, "1.000 (2.000)")


def test_a_manifest_can_ask_for_a_schedule_and_for_validation(tmp_path):
    more = 'epochs = 9\nvalidation = 100\nwarmup = 1\nlr-adjust = "3,6"'
    row = read_manifest(write(tmp_path, SMALL.replace("epochs = 3", more)), "logs")["one"][1]
    settings = TrainSettings.from_values(row.cell._asdict() | row.settings, "test")
    assert (settings.validation, settings.warmup, settings.lr_adjust) == (100, 1, "3,6")


def test_layers_in_full_precision_are_a_list_or_a_text(tmp_path):
    def kept(value):
        (row, _) = read_manifest(write(tmp_path, SMALL.replace("epochs = 3", f"keep = {value}")), "logs")["one"]
        return TrainSettings.from_values(row.cell._asdict() | row.settings, "here").keep

    assert kept('["fc", "*.downsample.*"]') == kept('"*.downsample.* fc"') == ("*.downsample.*", "fc")
    assert kept("[]") == kept('""') == ()
    with pytest.raises(BadInput, match="here: --keep: must be a list"):
        kept("3")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[settings]", "[settings", ["line 3"]),
        ("[tables.one]", "[other.one]", ["tables is missing"]),
        ("trials = 2", "trails = 2", ["unknown key 'trails'", "trials"]),
        ("trials = 2", "trials = true", ["trials must be an integer", "True"]),
        ("trials = 4", "trials = 0", ["table one, cell 1", "at least 1"]),
        ('optimizer = "SGD", trials', "trials", ["table one, cell 1", "optimizer is missing"]),
        ('"FC-Grad", optimizer', '"STE", optimizer', ["table one, cell 2", "ResNet20 Digits dorefa SGD STE is listed twice"]),
        ('when = { backward = "STE" }', 'when = { backwards = "STE" }', ["rule 1", "backwards", "backward"]),
        ('when = { backward = "STE" }', "when = { backward = 3 }", ["rule 1", "backward must be an array"]),
        ('when = { backward = "STE" }', 'when = { backward = "LSTMFC" }', ["no cell matches the rule", "LSTMFC"]),
        ('why = "a reason"', 'why = "a reason"\nprotocol = "pape"', ["rule 1", "logs, paper", "'pape'"]),
        ("lr-adjust = 7", "trial = 7", ["rule 1", "trial is not a setting: the cell, the trial or a flag of `tables` sets it"]),
        ("epochs = 3", 'model = "ResNet56"', ["settings", "model is not a setting"]),
        ("cells = [", "cells = [ 3,", ["table one, cell 1", "must be a table", "3"]),
        ("epochs = 3", 'keep = [["fc"]]', ["settings", "keep must be a printable text", "a list of them"]),
        ("epochs = 3", 'keep = ["f\\u0007"]', ["settings", "keep must be a printable text"]),
    ],
)
def test_a_mistake_in_a_manifest_is_named(old, new, words, tmp_path):
    assert old in SMALL
    path = write(tmp_path, SMALL.replace(old, new))
    with pytest.raises(BadInput) as error:
        read_manifest(path, "logs")
    for word in [f"--manifest {path}", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_an_absent_manifest(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        read_manifest(tmp_path / "absent.toml", "logs")


def test_the_digits_manifest_is_read():
    path = MANIFEST.with_name("digits.toml")
    assert [row.trials for row in read_manifest(path, "logs")["digits"]] == [2, 2]
    assert tomllib.loads(path.read_text())["settings"]["epochs"] == 15


def test_the_manifest_of_the_scripts_page_is_one(tmp_path):
    page = (MANIFEST.parent / "README.md").read_text()
    (content,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(content)
    rows = read_manifest(tmp_path / "mine.toml", "logs")["mine"]
    assert [(row.cell.backward, row.trials, row.settings.get("weight-decay")) for row in rows] == [
        ("STE", 2, None),
        ("MultiFC", 2, 5e-4),
        ("STE", 2, None),
    ]
    assert rows[2].settings == rows[0].settings | {"init-lr": 1e-2, "exp-spec": "fast"}
    assert rows[0].settings["keep"] == ["conv1", "fc"]
