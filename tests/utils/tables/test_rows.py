"""Which rows of a manifest's tables a command selects: cells that tables share, and trials by number."""

import pytest
from table_runs import runs_of

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
