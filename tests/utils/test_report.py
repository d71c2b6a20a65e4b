"""The summary of runs: what is read from their folders, and the table."""

import json

import numpy as np
import pytest

from utils.miscellaneous import BadInput
from utils.report import draw_curves, find_runs, read_run, summary_table


def make_run(path, epochs=12, per_epoch=3, extra_rows=0, **record):
    """A run's folder as the recorder leaves it: loss falls, the accuracy of epoch k is 50 + k."""
    path.mkdir(parents=True)
    settings = {"quantizer": "dorefa", "optimizer": "SGD", "backward": "STE"}
    full = {
        "settings": settings,
        "state": "done",
        "started": path.name,
        "epochs_done": epochs,
        "iterations_per_epoch": per_epoch,
        "seconds_per_epoch": [2.0] * epochs,
    }
    (path / "run.json").write_text(json.dumps(full | record))
    rows = range(epochs * per_epoch + extra_rows)
    (path / "loss.txt").write_text("".join(f"{t}, {100 - t}\n" for t in rows))
    (path / "train-acc.txt").write_text("".join(f"{t}, {t}\n" for t in rows))
    (path / "test-acc.txt").write_text("".join(f"{k + 1}, {51 + k}\n" for k in range(epochs)))
    return path


@pytest.mark.parametrize("extra_rows", [0, 2])
def test_an_epochs_value_is_the_running_mean_at_its_end(tmp_path, extra_rows):
    run = read_run(make_run(tmp_path / "a", epochs=4, extra_rows=extra_rows))
    np.testing.assert_array_equal(run.loss, [98, 95, 92, 89])
    np.testing.assert_array_equal(run.train_acc, [2, 5, 8, 11])
    np.testing.assert_array_equal(run.test_acc, [51, 52, 53, 54])


def test_the_table_pools_the_last_ten_epochs_with_the_population_variance(tmp_path):
    make_run(tmp_path / "a" / "1")
    make_run(tmp_path / "b" / "2", epochs=0, state="failed")
    make_run(tmp_path / "a" / "replaced" / "3")
    table = summary_table(find_runs([str(tmp_path)])).splitlines()
    last = np.arange(53, 63)
    assert table[2:] == [
        f"| dorefa SGD STE | 12 | 62.00 | 62.00 | {last.mean():.3f} ({last.var():.3f}) | 2.0 | done |",
        "| dorefa SGD STE | 0 | | | | | failed |",
    ]


def test_a_single_epoch_and_a_full_precision_run(tmp_path):
    make_run(tmp_path / "a", epochs=1, per_epoch=1, settings={"optimizer": "SGD-M"})
    assert "| full precision | 1 | 51.00 | 51.00 | 51.000 (0.000) |" in summary_table(find_runs([str(tmp_path)]))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"settings": 1}'])
def test_a_damaged_record_is_named(content, tmp_path):
    make_run(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text(content)
    with pytest.raises(BadInput, match=r"run\.json"):
        find_runs([str(tmp_path)])


def test_a_picture_of_an_unknown_kind_is_refused(call_main, tmp_path):
    make_run(tmp_path / "a")
    outcome = call_main("report", tmp_path, "--out", tmp_path / "curves.wav")
    assert outcome.code == 2
    assert "--out" in outcome.err
    draw_curves(find_runs([str(tmp_path)]), tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text()
