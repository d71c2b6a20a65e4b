"""A run's record: records of earlier commits are of the same run as the same command now."""

import json

import pytest
from parsed import REQUIRED

from utils.errors import BadInput, Finished
from utils.run.common_settings import with_precision
from utils.run.folder.fields import check_record_fields
from utils.run.folder.record import check_record
from utils.run.identity import Identity, check_checkpoint, switched_on
from utils.run.settings import LEARNED_DEFAULTS, META_OPTIONS, PretrainSettings, TrainSettings

# of a run of commit 117f2a1, as its run.json has them
RECORDED = {
    "model": "ResNet20",
    "dataset": "CIFAR10",
    "init_lr": 0.001,
    "epochs": 100,
    "lr_adjust": 30,
    "batch_size": 128,
    "drop_last": True,
    "seed": 0,
    "data_root": "elsewhere/data",
    "results_root": "elsewhere/Results",
    "device": "auto",
    "deterministic": False,
    "checkpoint_every": "1",
    "tf32": False,
    "eager": False,
    "loader": "resident",
    "workers": 0,
    "stop_after": None,
    "quantizer": "BWN",
    "bits": 1,
    "optimizer": "SGD",
    "weight_decay": 0.0,
    "backward": "FC-Grad",
    "hidden_size": 100,
    "num_fc": None,
    "num_lstm": None,
    "meta_nonlinear": None,
    "meta_init": "identity",
    "lstm_state": None,
    "meta_lr": 0.001,
    "meta_lr_adjust": False,
    "meta_weight_decay": 0.0,
    "update_order": "notebook",
    "exp_spec": None,
    "trial": 1,
    "pretrained": "elsewhere/ResNet20-CIFAR10-pretrain.pth",
}
RENAMED = {("precision" if name == "tf32" else name): ("float32" if name == "tf32" else v) for name, v in RECORDED.items()}
NEWER = {"label_smoothing", "clip", "keep", "warmup", "validation", "quantizer_lr", "phi", "freeze_phi_after"}  # usually off
OWN = {"quantizer": "BWN", "backward": "FC-Grad", "meta_init": "identity", "drop_last": True}
OF_STE = {**RECORDED, **dict.fromkeys((*META_OPTIONS, *LEARNED_DEFAULTS)), "quantizer": "dorefa", "backward": "STE"}


def settings_now(**changes):
    """The settings of the same command as RECORDED's."""
    return TrainSettings(**REQUIRED, **OWN | changes, pretrained="here/ResNet20-CIFAR10-pretrain.pth")


def test_settings_are_those_of_earlier_records_by_name_and_order():
    found = TrainSettings(**REQUIRED, **OWN).as_dict()
    places = {"data_root", "results_root", "pretrained"}
    assert [name for name in found if name not in NEWER] == list(RENAMED)
    assert {*found} == {*RENAMED, *NEWER}
    assert {name: value for name, value in found.items() if name not in places | NEWER} == {
        name: value for name, value in RENAMED.items() if name not in places
    }
    pretraining = [*[*RENAMED][:18], "weight_decay", "trial", "optimizer", "momentum"]
    assert [name for name in PretrainSettings(**REQUIRED).as_dict() if name not in NEWER] == pretraining
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("recorded", [RECORDED, OF_STE], ids=["FC-Grad", "STE"])
def test_a_record_of_an_earlier_commit_is_the_same_run(recorded, tmp_path):
    run = {"backward": recorded["backward"], "quantizer": recorded["quantizer"]}
    (tmp_path / "run.json").write_text(json.dumps({"settings": recorded, "state": "running", "epochs_done": 40}))
    assert check_record(tmp_path, settings_now(**run))["epochs_done"] == 40
    assert switched_on(TrainSettings.from_record(recorded).as_dict()) == switched_on(with_precision(recorded))
    (tmp_path / "run.json").write_text(json.dumps({"settings": recorded, "state": "done"}))
    with pytest.raises(Finished, match="is done"):
        check_record(tmp_path, settings_now(**run))
    with pytest.raises(BadInput, match="epochs 100 there and 7 here"):
        check_record(tmp_path, settings_now(**run, epochs=7))


def test_what_was_recorded_as_tf32_is_a_precision(tmp_path):
    """In records and checkpoints of earlier commits, on or off, or not there; a command of another precision is another run."""
    for there, precision in (({"tf32": True}, "tf32"), ({"tf32": False}, "float32"), ({}, "float32")):
        recorded = {name: value for name, value in RECORDED.items() if name != "tf32"} | there
        (tmp_path / "run.json").write_text(json.dumps({"settings": recorded, "state": "running"}))
        same, other = settings_now(precision=precision), settings_now(precision="bf16")
        assert check_record(tmp_path, same)["settings"]["precision"] == precision
        assert TrainSettings.from_record(recorded).precision == precision
        check_checkpoint(tmp_path, {"settings": recorded}, Identity.of_command(same, {}), "")
        words = f"other settings: precision {precision} there and bf16 here"
        with pytest.raises(BadInput, match=f"{words}; choose another --exp-spec"):
            check_record(tmp_path, other)
        with pytest.raises(BadInput, match=words):
            check_checkpoint(tmp_path, {"settings": recorded}, Identity.of_command(other, {}), "")


def test_a_record_may_lack_a_setting_or_have_one_that_is_gone(tmp_path):
    recorded = {name: value for name, value in RECORDED.items() if name not in ("drop_last", "eager", "loader")}
    found = TrainSettings.from_record(recorded | {"speed": 9})
    assert (found.drop_last, found.eager, found.loader) == (False, False, "resident")
    assert "speed" not in found.as_dict()
    (tmp_path / "run.json").write_text(json.dumps({"settings": recorded | {"loader": "resident"}, "state": "running"}))
    assert check_record(tmp_path, settings_now(drop_last=False))["state"] == "running"
    with pytest.raises(BadInput, match="drop_last off there and True here"):
        check_record(tmp_path, settings_now())


def test_an_optimizees_options_are_the_records():
    """STE's Adam was the published one before it became torch's."""
    now = TrainSettings(**REQUIRED, backward="STE", optimizer="Adam")
    assert now.as_dict()["bias_corrected_eps"] is True
    assert "bias_corrected_eps" not in TrainSettings(**REQUIRED, optimizer="Adam").as_dict()
    assert TrainSettings.from_record(now.as_dict()) == now
    earlier = {name: value for name, value in now.as_dict().items() if name != "bias_corrected_eps"}
    assert TrainSettings.from_record(earlier).as_dict() == earlier


def test_a_records_whole_numbers_lie_in_their_settings_range():
    record = {"state": "done", "settings": {"trial": 10**18}}
    with pytest.raises(ValueError, match="setting 'trial' must be a whole number from 1 to 1000000"):
        check_record_fields(record)
    with pytest.raises(ValueError, match="setting 'tf32' must be true or false, not 'yes'"):
        check_record_fields({"state": "done", "settings": {"tf32": "yes"}})
