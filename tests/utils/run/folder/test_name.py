"""The name of a run's folder."""

import pytest
from parsed import REQUIRED

from utils.errors import BadInput
from utils.run.folder.name import run_name, run_path
from utils.run.settings import TrainSettings


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "-lr-30-trial-1"),
        ({"warmup": 0}, "-lr-30-trial-1"),
        ({"lr_adjust": "adaptive"}, "-lr-adaptive-trial-1"),
        ({"lr_adjust": "60,80,90"}, "-lr-60-80-90-trial-1"),
        ({"lr_adjust": "cosine", "warmup": 5, "exp_spec": "mine"}, "-lr-cosine-warmup-5-mine-trial-1"),
    ],
)
def test_a_runs_name_shows_the_schedule(changes, part):
    assert run_name(TrainSettings(**REQUIRED, **changes)).endswith(f"-1bits{part}")
    assert TrainSettings(**REQUIRED, warmup=0, validation=0) == TrainSettings(**REQUIRED)


def test_a_runs_name_fits_into_a_file_system(tmp_path):
    usual = len(run_name(TrainSettings(**REQUIRED, exp_spec="e")))
    longest = run_path(TrainSettings(**REQUIRED, exp_spec="e" * (256 - usual), results_root=str(tmp_path)))
    longest.mkdir(parents=True)
    with pytest.raises(BadInput, match="would have 256 bytes, and a file system takes 255: make -e/--exp-spec shorter"):
        run_path(TrainSettings(**REQUIRED, exp_spec="e" * (257 - usual)))
