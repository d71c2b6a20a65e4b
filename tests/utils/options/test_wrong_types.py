"""Values of wrong types, as a program may give them: every option takes each or refuses it with BadInput, which names it."""

import pytest
from parsed import REQUIRED

from utils.benchmark.options import BenchmarkOptions
from utils.errors import BadInput
from utils.options.options import flag, settings_of
from utils.run.settings import PretrainSettings, TrainSettings
from utils.tables.options import EngineOptions, Selection

SETTINGS = {name: REQUIRED[name] for name in ("model", "dataset")}
CLASSES = {
    Selection: {"tables": ("table1",)},
    EngineOptions: {},
    BenchmarkOptions: {},
    TrainSettings: REQUIRED,
    PretrainSettings: SETTINGS,
}
ODD = (3, -1, 1.5, float("nan"), True, None, "", "a", b"a", (), ("a",), ("a", 3), ("a", "b"), ("a", "b", "c"), [["a"]], {"a": 1})
ODD += ((3,), (("a", 3),), (("a", None),), ((3, "a"),), ((None, None),), (("a", ("b", 3)),), (("a", "bc"),))
ODD += ((2, "a"), ("1", "2"), object())


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in CLASSES for name in settings_of(kind)])
def test_an_odd_value_is_taken_or_refused(kind, name):
    refusals = []
    for value in ODD:
        try:
            kind(**{**CLASSES[kind], name: value})
        except BadInput as error:
            refusals.append(str(error).replace("_", "-"))
    assert refusals
    assert all(flag(name).removeprefix("--") in refusal for refusal in refusals)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"slice": 3}, "--slice: must be I/N"),
        ({"slice": (True, 2)}, "--slice: must be I/N"),
        ({"set": (3,)}, "--set: must be NAME=VALUE"),
        ({"grid": (("a", 3),)}, "--grid: must be NAME=VALUE,VALUE"),
        ({"grid": (("a", "bc"),)}, "--grid: must be NAME=VALUE,VALUE"),
    ],
)
def test_pairs_of_other_things_are_refused(changes, named):
    with pytest.raises(BadInput, match=f"^{named}"):
        Selection(tables=("table1",), **changes)


def test_pairs_may_be_lists():
    selection = Selection(tables=["table1"], slice=[1, 2], set=[["bits", "1"]], grid=[["bits", ["1", "2"]]])
    assert (selection.slice, selection.set, selection.grid) == ((1, 2), (("bits", "1"),), (("bits", ("1", "2")),))
