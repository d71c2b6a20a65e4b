"""Which rows of a manifest's tables a command selects: cells that tables share, and trials by number."""

import pytest
from table_runs import runs_of

from utils.errors import BadInput

SHARED = """
[tables.many]
dataset = "Digits"
cells = [{ model = "ResNet20", quantizer = "dorefa", backward = "STE", optimizer = "SGD", trials = 5 }]
[tables.one]
dataset = "Digits"
cells = [
  { model = "ResNet20", quantizer = "dorefa", backward = "STE", optimizer = "SGD" },
  { model = "ResNet20", quantizer = "BWN", backward = "STE", optimizer = "SGD", trials = 2 },
]
"""


@pytest.fixture
def select(tmp_path):
    """select(text, *arguments): the runs of `main.py tables status` with a manifest of this text."""

    def call(text, *arguments):
        path = tmp_path / "rows.toml"
        path.write_text(text)
        return runs_of(["tables", "status", *arguments, "--manifest", str(path), "--pretrained-root", "none"])

    return call


def test_a_cell_that_tables_share_has_the_larger_number_of_trials(select):
    for tables in (["many", "one"], ["one", "many"], ["all"]):
        runs = select(SHARED, *tables)
        assert sorted((run.row.cell.quantizer, run.trial) for run in runs) == [
            *(("BWN", trial) for trial in (1, 2)),
            *(("dorefa", trial) for trial in (1, 2, 3, 4, 5)),
        ]
    assert len(select(SHARED, "many", "one", "--trials", "3")) == 6


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--trial", "1", "9"], "--trial 9: there are trials 1 to 5"),
        (["--trial", "6", "1", "7"], "--trial 6 7: there are trials 1 to 5"),
        (["--trial", "4", "3", "--trials", "3"], "--trial 4: there are trials 1 to 3"),
        (["--trial", "3", "-q", "BWN"], "--trial 3: there are trials 1 to 2"),
    ],
)
def test_a_trial_that_no_cell_has_is_refused(flags, refused, select):
    with pytest.raises(BadInput, match=f"^{refused}$"):
        select(SHARED, "all", *flags)


def test_a_trial_that_one_of_the_cells_has_is_selected(select):
    assert [(run.row.cell.quantizer, run.trial) for run in select(SHARED, "all", "--trial", "2", "4")] == [
        ("dorefa", 2),
        ("BWN", 2),
        ("dorefa", 4),
    ]
