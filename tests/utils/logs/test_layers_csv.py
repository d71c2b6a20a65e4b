"""The text of layers.csv, and the means that TensorBoard shows of it."""

import csv
from io import StringIO

import pytest

from utils.logs.layers_csv import HEADER, MOST_GROUPS, LayerRow, csv_text, group_means


def row(layer, weights=1, **numbers):
    return LayerRow(1, layer, weights, *(numbers.get(name) for name in LayerRow._fields[3:]))


def test_the_columns_are_these():
    """Other programs read them."""
    columns = "epoch,layer,weights,flipped,flipped_since_start,oscillating,distance,norm,cosine"
    assert columns + "\n" == HEADER


def test_numbers_have_six_digits_and_the_unknown_is_empty():
    text = csv_text([LayerRow(3, "fc", 640, 1 / 3, 0.0, None, 1e-9 / 7, 123456.75, -1.0)])
    assert text == "3,fc,640,0.333333,0,,1.42857e-10,123457,-1\n"


@pytest.mark.parametrize("name", ['a,"b"', "a\nb", "\x1b[31m", " ", "größe"])
def test_a_layer_of_any_name_is_one_line(name):
    text = csv_text([row(name), row("fc")])
    assert text.count("\n") == 2
    assert "\x1b" not in text
    (first, _) = csv.reader(StringIO(text))
    assert len(first) == len(LayerRow._fields)
    assert first[1] == name.encode("unicode_escape").decode() or first[1] == name


def test_means_are_weighted_by_weights_over_what_is_known():
    rows = [row("a.0", 1, flipped=1.0, cosine=0.5), row("a.1", 3, flipped=0.0), row("b", 4, flipped=0.25)]
    means = group_means(rows)
    assert means == pytest.approx(
        {
            "layers/flipped/all": 0.25,
            "layers/flipped/a": 0.25,
            "layers/flipped/b": 0.25,
            "layers/cosine/all": 0.5,
            "layers/cosine/a": 0.5,
        }
    )


def test_many_groups_are_not_shown_one_by_one():
    rows = [row(f"features{i}.0", flipped=0.5) for i in range(MOST_GROUPS)]
    assert len(group_means(rows)) == MOST_GROUPS + 1
    assert group_means([*rows, row("fc", flipped=0.5)]) == {"layers/flipped/all": 0.5}
    assert group_means([row("a.0", flipped=0.5)]) == {"layers/flipped/all": 0.5}
