"""layers.csv in the report: what is read of it, what is not believed, and the pictures."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hostile import hostile_layers, raw_characters
from parsed_page import Page
from run_folders import CELL, DIGITS, LAYERS, layer_rows, make_run, write_layers

from utils.errors import BadInput
from utils.logs.layers_csv import LayerRow
from utils.report.gallery import MOST_MAPS
from utils.report.layers import COLUMNS, read_layers
from utils.report.pictures import curves, flip_map, layer_panels, series_of
from utils.report.reading import find_trials
from utils.report.report import make_report
from utils.report.trials import Group

LEARNED = DIGITS._replace(backward="MultiFC")


def test_what_is_written_is_read(tmp_path):
    rows = layer_rows(5, first=3)
    table = read_layers(write_layers(tmp_path, rows) / "layers.csv", 5, over=True)
    assert (table.first, table.names, table.weights.tolist()) == (3, tuple(LAYERS), list(LAYERS.values()))
    for column in COLUMNS:
        expected = [np.nan if getattr(row, column) is None else getattr(row, column) for row in rows]
        np.testing.assert_allclose(table.columns[column].ravel(), expected, rtol=1e-5)
    shares = [sum(n * w for n, w in enumerate(LAYERS.values())) / sum(LAYERS.values()) / (10 * k) for k in (3, 4, 5)]
    np.testing.assert_allclose(table.mean("flipped"), [np.nan, np.nan, *shares], rtol=1e-5)


def test_a_mean_is_over_the_layers_where_a_value_is_known(tmp_path):
    rows = [LayerRow(1, "a", 1, 0.1, 0.1, None, 0.0, 0.0, None), LayerRow(1, "b", 3, 0.5, 0.1, None, 0.0, 0.0, -0.25)]
    table = read_layers(write_layers(tmp_path, rows) / "layers.csv", 1, over=True)
    assert table.mean("flipped").tolist() == [0.4]
    assert table.mean("cosine").tolist() == [-0.25]
    assert np.isnan(table.mean("oscillating")).all()


def test_what_a_running_run_has_written_meanwhile_is_ignored(tmp_path):
    path = write_layers(tmp_path, layer_rows(4)) / "layers.csv"
    whole = path.read_bytes()
    for data in (whole, whole[:-7], whole + b"5,conv1,\xe2"[:9]):
        path.write_bytes(data)
        table = read_layers(path, 3, over=False)
        assert len(table.columns["norm"]) == 3
        with pytest.raises(BadInput, match=r"layers\.csv cannot be read: (row 11 is of epoch 4, and the run has 3|its last row)"):
            read_layers(path, 3, over=True)
    path.write_bytes(whole[:-7])
    with pytest.raises(BadInput, match=r"it has 11 rows, not 12 for epochs 1 to 4"):
        read_layers(path, 4, over=False)


def test_no_file_and_no_rows_are_nothing(tmp_path):
    path = tmp_path / "layers.csv"
    assert read_layers(path, 3, over=True) is None
    write_layers(tmp_path, [])  # an earlier version's run whose last checkpoint this one found
    assert read_layers(path, 3, over=True) is None
    path.write_bytes(b"")  # the file is begun, and nothing is on disk
    assert read_layers(path, 3, over=False) is None


def test_hostile_files_are_named_and_the_rest_is_reported(call_main, tmp_path, tally):
    cases = hostile_layers(epochs=3)
    for number, (name, make) in enumerate(cases, 1):
        make(make_run(tmp_path / "runs" / name, DIGITS, trial=number, epochs=3) / "layers.csv")
    good = make_run(tmp_path / "runs" / "good", LEARNED, epochs=3)
    write_layers(good, layer_rows(3))
    outcome = call_main("report", tmp_path / "runs")
    assert outcome.code == 0
    assert raw_characters(outcome.out + outcome.err) == set()
    lines = outcome.err.splitlines()
    for number, (name, _) in enumerate(cases, 1):
        (line,) = [line for line in lines if f"/{name}/layers.csv cannot be read: " in line]
        assert line.startswith("main.py: warning: ")
        assert len(line) < 1000
        assert f"| dorefa SGD STE | {number} | 3 | 53.00 |" in outcome.out
    assert len(lines) == len(cases) > 90
    trials, _ = find_trials([tmp_path / "runs"])
    assert [trial.cell for trial in trials if trial.layers] == [LEARNED]
    tally("hostile layers.csv: named, the run and the rest are reported", len(cases))


NAMES = ["flips", "flips_left_out", "flip_map_1", "flip_map_2", "flip_map_3"]


def test_every_picture_is_written_with_its_caption(report_with_layers):
    report, folder = report_with_layers
    (section,) = [section for section in report.sections if section.name == "layers"]
    assert [picture.name for picture in section.pictures] == NAMES
    text = (folder / "report.md").read_text()
    shown = Page((folder / "report.html").read_text())
    for picture in section.pictures:
        assert (folder / f"{picture.name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (folder / f"{picture.name}.svg").read_text()
        assert f"]({picture.name}.png)\n\n{picture.caption}\n" in text
        assert picture.caption in shown.text
        assert picture.anchor in shown.ids()
    assert len({picture.caption for picture in section.pictures}) == len(NAMES)
    assert "Flips" not in report.markdown()


def test_a_map_is_an_image_within_the_page(report_with_layers):
    shown = Page((report_with_layers[1] / "report.html").read_text())
    addresses = [attributes["href"] for tag, attributes in shown.elements if tag == "image"]
    assert len(addresses) >= 3
    assert all(re.match(r"data:image/png;base64,\s*[\w+/=\s]+$", address) for address in addresses)


def test_the_lines_are_the_means(report_with_layers):
    report, _ = report_with_layers
    groups = [group for group in report.others if any(trial.layers for trial in group.trials)]
    (one, two) = layer_panels("title", series_of(groups))
    (learned,) = [trial for trial in report.trials if trial.cell == LEARNED and trial.number == 2]
    share = sum(n * w for n, w in enumerate(LAYERS.values())) / sum(LAYERS.values())
    np.testing.assert_allclose(getattr(learned, one.curve), [100 * share / (10 * k) for k in range(1, 7)], rtol=1e-5)
    np.testing.assert_allclose(getattr(learned, two.curve), [1 - 1 / k for k in range(1, 7)], rtol=1e-5)
    ste = [group for group in groups if group.cell == DIGITS]
    assert [panel.curve for panel in layer_panels("title", series_of(ste))] == ["flipped"]  # STE has no cosine with itself


def test_a_map_has_a_field_per_layer_and_epoch(report_with_layers):
    report, _ = report_with_layers
    (learned,) = [trial for trial in report.trials if trial.cell == LEARNED and trial.number == 2]
    axes = flip_map("title", learned.layers).axes[0]
    (image,) = axes.get_images()
    np.testing.assert_allclose(image.get_array(), [[10 * n / k for k in range(1, 7)] for n in range(3)], rtol=1e-5)
    assert image.get_extent() == [0.5, 6.5, 2.5, -0.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(LAYERS)


def test_a_published_block_has_a_picture_of_its_own(tmp_path):
    run = make_run(tmp_path / "run", CELL, epochs=100, shift=-51)
    write_layers(run, layer_rows(100))
    write_layers(make_run(tmp_path / "other", DIGITS), layer_rows(12))
    make_run(tmp_path / "old", LEARNED)
    report, _ = make_report([tmp_path])
    (section,) = [section for section in report.sections if section.name == "layers"]
    names = [picture.name for picture in section.pictures]
    assert names == ["flips_ResNet20_CIFAR10_dorefa_SGD", "flips", "flip_map_1", "flip_map_2"]
    (run / "layers.csv").unlink()
    (tmp_path / "other" / "layers.csv").unlink()
    assert "layers" not in [section.name for section in make_report([tmp_path])[0].sections]


def captions(report):
    (section,) = [section for section in report.sections if section.name == "layers"]
    return {picture.name: picture.caption for picture in section.pictures}


def test_maps_show_what_flips_and_their_caption_counts_the_others(report_with_layers):
    report, _ = report_with_layers
    (trial,) = [trial for trial in report.trials if trial.cell == LEARNED and trial.number == 2]

    def group(number):
        """Of the n-th method a share of n % flips, of the first none."""
        columns = dict(trial.layers.columns) | {"flipped": np.full((6, 3), number / 100)}
        cell = DIGITS._replace(backward=f"M{number:02}")
        return Group(cell, "", (replace(trial, cell=cell, layers=replace(trial.layers, columns=columns)),))

    found = captions(replace(report, groups=[group(number) for number in range(MOST_MAPS + 3)], left_out=[]))
    shown = [caption.split(",")[0].split()[-1] for name, caption in found.items() if name.startswith("flip_map")]
    assert shown == [f"M{number:02}" for number in range(3, MOST_MAPS + 3)]
    without = "Without a map: 2 methods whose weights flip less and 1 method whose weights do not flip at all."
    assert found["flip_map_1"].endswith(f" in percent. {without}")
    assert captions(replace(report, groups=[group(0)], left_out=[])).keys() == {"flips"}


def test_a_caption_speaks_of_the_cosine_where_it_is_drawn(report_with_layers):
    report, _ = report_with_layers
    found = captions(replace(report, groups=[group for group in report.groups if group.cell == DIGITS]))
    assert found["flips"] == "ResNet20 Digits: weights that flipped in each epoch."
    assert "cosine" in found["flips_left_out"]


@pytest.mark.parametrize("shares", [(0.5, 0.0), (0.0, 0.0)])
def test_an_epoch_without_a_flip_is_drawn_at_zero(report_with_layers, shares):
    report, _ = report_with_layers
    (trial,) = [trial for trial in report.trials if trial.cell == LEARNED and trial.number == 2]
    columns = dict(trial.layers.columns) | {"flipped": np.repeat(np.array([shares]).T / 100, 3, axis=1)}
    trial = replace(trial, test_acc=trial.test_acc[:2], layers=replace(trial.layers, columns=columns))
    figure = curves([layer_panels("", series_of([Group(LEARNED, "", (trial,))]))[:1]])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.lines[0].get_ydata().tolist() == pytest.approx(shares)
    low, high = axes.get_ylim()
    bottom, zero, top = axes.transData.transform([(1, low), (1, 0), (1, high)])[:, 1]
    assert bottom < zero < bottom + 0.1 * (top - bottom)
    assert high >= shares[0]
    assert "0" in [label.get_text() for label in axes.get_yticklabels()]


def test_there_are_not_endlessly_many_maps_and_names(report_with_layers):
    report, _ = report_with_layers
    (trial,) = [trial for trial in report.trials if trial.cell == LEARNED and trial.number == 2]
    cells = [DIGITS._replace(backward=f"M{number}") for number in range(30)]
    many = replace(report, groups=[Group(cell, "", (replace(trial, cell=cell),)) for cell in cells])
    (section,) = [section for section in many.sections if section.name == "layers"]
    assert sum(picture.name.startswith("flip_map") for picture in section.pictures) == MOST_MAPS
    names = tuple(f"layer{n}.{'x' * 900}$\\frac{{$" for n in range(1000))
    wide = {"flipped": np.full((2, 1000), np.nan)}
    figure = flip_map("$\\frac{$", replace(trial.layers, names=names, weights=np.ones(1000), columns=wide))
    figure.draw_without_rendering()
    assert figure.get_figheight() < 13
    assert 30 < len(figure.axes[0].get_yticklabels()) <= 60
