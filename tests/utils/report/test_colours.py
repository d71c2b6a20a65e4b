"""Which colour a line of the report's pictures has."""

from run_folders import CELL, DIGITS, make_trial

from utils.report.pictures import ANOTHER, COLOURS, STYLES, series_of
from utils.report.trials import Group

LEARNED = DIGITS._replace(backward="MultiFC")
OWN = DIGITS._replace(backward="of my own")


def groups_of(*cells):
    return [Group(cell, str(number), (make_trial([50.0, 60.0], cell),)) for number, cell in enumerate(cells)]


def test_variants_of_a_method_have_colours_that_no_other_line_has():
    found = series_of(groups_of(DIGITS, LEARNED, LEARNED, DIGITS, OWN, OWN))
    colours = [series.colour for series in found]
    assert len(set(colours)) == len(colours)
    assert [colours[k] for k in (0, 1, 4)] == [COLOURS["STE"], COLOURS["MultiFC"], ANOTHER]
    assert {series.style for series in found} == {STYLES[0]}


def test_logs_share_the_colour_of_their_method_and_with_no_variant():
    learned = CELL._replace(backward="MultiFC")
    logs, other, *lines = series_of(groups_of(CELL, CELL), [CELL, learned])
    assert [logs.colour, other.colour, lines[0].colour] == [COLOURS[name] for name in ("STE", "MultiFC", "STE")]
    assert lines[1].colour not in (COLOURS["STE"], COLOURS["MultiFC"])


def test_once_all_colours_are_taken_lines_differ_in_their_style():
    found = series_of(groups_of(*[DIGITS] * 20))
    assert len({(series.colour, series.style, series.marker) for series in found}) == 20
    assert len({series.colour for series in found}) == len(COLOURS) + 1
