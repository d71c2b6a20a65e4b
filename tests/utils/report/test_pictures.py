"""What the lines, the bands and the bars of the report's pictures show."""

import pytest
from run_folders import CELL, DIGITS, make_trial

from utils.report.pictures import Row, curve_panels, curves, overview, series_of
from utils.report.published import printed
from utils.report.trials import Group


def test_a_line_is_the_mean_and_its_band_reaches_from_the_lowest_to_the_highest_trial():
    trials = tuple(make_trial(acc, DIGITS, number) for number, acc in enumerate(([50, 60], [54, 60], [58, 66]), 1))
    _, axes = curves([curve_panels("title", series_of([Group(DIGITS, "", trials)]))]).axes
    assert axes.lines[0].get_ydata().tolist() == [54, 62]
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    for epoch, low, high in ((1, 50, 58), (2, 60, 66)):
        values = corners[corners[:, 0] == epoch, 1]
        assert (values.min(), values.max()) == (low, high)


def test_the_bars_of_an_overview_are_two_standard_errors_of_the_mean_over_trials():
    trials = tuple(make_trial([mean] * 12, CELL, number) for number, mean in enumerate((80, 82, 84), 1))  # s = 2
    (axes,) = overview("Table 1", [Row(CELL, printed()[CELL], [Group(CELL, "", trials)])]).axes
    point, _, (bar,) = axes.containers[-1].lines
    assert point.get_xdata().tolist() == [82]
    (segment,) = bar.get_segments()
    assert segment[:, 0].tolist() == pytest.approx([82 - 4 / 3**0.5, 82 + 4 / 3**0.5])
