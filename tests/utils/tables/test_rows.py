"""Which rows of a manifest's tables a command selects: cells that tables share, and trials by number."""

import pytest
from table_runs import runs_of

from utils.errors import BadInput
from utils.tables.selection import status_table

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


VARIANTS = """
trials = 2
[settings]
init-lr = 0.5
[[rules]]
why = "a reason"
set = { init-lr = 0.1, batch-size = 30 }
[tables.one]
dataset = "Digits"
cells = [
  { model = "ResNet20", quantizer = "BWN", backward = "STE", optimizer = "SGD" },
  { model = "ResNet20", quantizer = "BWN", backward = "STE", optimizer = "SGD", trials = 1, set = FAST },
  { model = "ResNet20", quantizer = "BWN", backward = "STE", optimizer = "SGD", set = { exp-spec = 3, keep = ["conv1"] } },
]
""".replace("FAST", '{ init-lr = 0.2, exp-spec = "fast" }')


def test_a_cell_may_have_several_variants(select):
    runs = select(VARIANTS, "one")
    assert [(run.trial, run.settings.exp_spec, run.settings.init_lr, run.settings.keep) for run in runs] == [
        (1, None, 0.1, ()),
        (1, "fast", 0.2, ()),
        (1, "3", 0.1, ("conv1",)),
        (2, None, 0.1, ()),
        (2, "3", 0.1, ("conv1",)),
    ]
    assert {run.settings.batch_size for run in runs} == {30}
    assert len({run.path for run in runs}) == 5
    names = [f"{runs[0].row.cell}{variant}" for variant in ("", " (exp-spec fast)", " (exp-spec 3)")]
    assert [str(run) for run in runs[:3]] == [f"{name} trial 1" for name in names]
    assert [line.split(" | ")[0] for line in status_table(runs).splitlines()[2:5]] == [f"| {name}" for name in names]


def test_a_sweep_varies_each_variant(select):
    runs = select(VARIANTS, "one", "--trial", "1", "--grid", "weight-decay=0,1e-3")
    assert [run.settings.exp_spec for run in runs] == [
        f"{base}grid-weight-decay-{value}" for base in ("", "fast-", "3-") for value in ("0.0", "0.001")
    ]
    assert str(runs[2]) == f"{runs[2].row.cell} (exp-spec fast, weight-decay 0.0) trial 1"


def test_variants_that_would_share_a_folder_are_refused(select):
    with pytest.raises(BadInput, match=r"trial 1 and .*exp-spec fast\) trial 1 would have the same folder, .*-same-trial-1;"):
        select(VARIANTS, "one", "--set", "exp-spec=same")
    words = r"table one, cell 3: .* \(exp-spec 3\) is listed twice; give one of the two an exp-spec in its `set`"
    with pytest.raises(BadInput, match=words):
        select(VARIANTS.replace('"fast"', '"3"'), "one")
    other = VARIANTS + VARIANTS.partition("[tables.one]")[2].replace("\ndataset", "[tables.two]\ndataset").replace("0.2", "0.3")
    with pytest.raises(BadInput, match=r"table two: .* \(exp-spec fast\) has other settings in table one; give one an exp-spec"):
        select(other, "one")


def test_a_cells_own_settings_are_checked_like_a_rules(select):
    for old, new, words in (
        ("init-lr = 0.2", "trial = 7", "table one, cell 2: trial is not a setting"),
        ("init-lr = 0.2", "Init = 7", "table one, cell 2: 'Init' is not a setting"),
        ("init-lr = 0.2", "init-lr = 'quick'", r"\(exp-spec fast\): -lr/--init-lr: must be a number"),
        ("set = { init-lr = 0.2,", "set = 3, x = {", "table one, cell 2: set must be"),
    ):
        with pytest.raises(BadInput, match=words):
            select(VARIANTS.replace(old, new), "one")
