"""--keep, the layers in full precision: a setting of the run, of its name and identity; off, it is as if it were not there."""

import json

import pytest
from parsed import REQUIRED, train_settings

from utils.errors import BadInput
from utils.run.folder.fields import check_record_fields
from utils.run.folder.name import patterns_label, run_name, run_path
from utils.run.folder.record import check_record
from utils.run.identity import Identity
from utils.run.settings import TrainSettings

CELL = {**REQUIRED, "backward": "STE"}
OFF = "Baseline-dorefa-optimizer-SGD-1bits-lr-30-trial-1"


def settings(*keep, **more):
    return TrainSettings(**CELL, keep=keep, **more)


def test_every_source_gives_the_same_patterns():
    made = settings("conv1", "fc")
    assert made.keep == ("conv1", "fc")
    assert settings("fc", "conv1", "fc") == made
    flags = ["-m", "ResNet20", "-d", "CIFAR10", "-meta", "STE"]
    assert train_settings([*flags, "--keep", "fc", "conv1"]) == made
    assert TrainSettings.from_values(CELL | {"keep": ["fc", "conv1"]}, "a manifest") == made
    assert TrainSettings.from_values(CELL | {"keep": "fc conv1"}, "--set") == made
    assert train_settings(made.arguments()) == made
    assert TrainSettings.from_record(json.loads(json.dumps(made.as_dict()))) == made
    assert train_settings(settings("*.downsample.*").arguments()).keep == ("*.downsample.*",)


@pytest.mark.parametrize("keep", [["a b"], [""], ["é"], ["a\n"], ["x" * 201], [0.5], [None], None, 3, "conv1", {"a": 1}])
def test_what_is_no_list_of_patterns_is_refused(keep):
    with pytest.raises(BadInput, match="--keep: must be "):
        TrainSettings(**CELL, keep=keep)


def test_off_it_leaves_no_trace(tmp_path):
    off = settings()
    assert run_name(off) == OFF
    assert "--keep" not in off.arguments()
    recorded = {name: value for name, value in off.as_dict().items() if name != "keep"}
    for old in (recorded, recorded | {"keep": []}, recorded | {"keep": None}):
        assert Identity(old, {}).differing_settings(Identity(off.as_dict(), {})) == ""
        (tmp_path / "run.json").write_text(json.dumps({"settings": old, "state": "running"}))
        assert check_record(tmp_path, off)["state"] == "running"


def test_a_run_with_other_patterns_is_another_run(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings("conv1", "fc").as_dict(), "state": "running"}))
    assert check_record(tmp_path, settings("fc", "conv1"))["state"] == "running"
    with pytest.raises(BadInput, match="keep conv1 fc there and conv1 here"):
        check_record(tmp_path, settings("conv1"))
    with pytest.raises(BadInput, match="keep conv1 fc there and none here"):
        check_record(tmp_path, settings())


@pytest.mark.parametrize(
    ("keep", "part"),
    [
        (("conv1",), "conv1"),
        (("fc", "conv1"), "conv1+fc"),
        (("encoder.layers.encoder_layer_0.mlp.0",), "encoder.layers.encoder_layer_0.mlp.0"),
    ],
)
def test_a_folder_names_them(keep, part):
    assert run_name(settings(*keep)) == OFF.replace("-trial", f"-keep-{part}-trial")
    assert run_name(settings(*keep, exp_spec="mine")) == OFF.replace("-trial", f"-mine-keep-{part}-trial")


def test_no_two_of_them_share_a_folder_and_none_is_too_long():
    odd = ["*", "?", "a*", "a?", "a_", "a-", "a+b", "a/b", "a//b", "../..", "a", "b", "[ab]", "[!ab]", "~", "%2A", "$x", "a.b"]
    keeps = [
        ("a", "b"),
        ("a", "b", "c"),
        ("x-trial-2",),
        ("mine-keep-a",),
        *((one,) for one in odd),
        *(("a", one) for one in odd[:6]),
    ]
    long = [tuple(f"layer{i}.{j}.conv1" for j in range(100)) for i in range(3)]
    keeps += [*long, long[0][:-1], ("x" * 200,), ("x" * 199,), ("*" * 199,), ("*" * 198,)]
    labels = [patterns_label(settings(*keep).keep) for keep in keeps]
    labels += [patterns_label((label,)) for label in labels if "++" in label]  # the pattern that a label would be
    assert len(set(labels)) == len(labels)
    for label in labels:
        assert len(label) <= 74
        assert set(label) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+")
    assert run_path(TrainSettings(**CELL | {"backward": "LSTMFC", "optimizer": "AMSGrad"}, keep=long[0], exp_spec="e" * 80))


def test_a_record_holds_them_as_a_list_of_texts():
    for keep in (["conv1", "*.downsample.*"], [], None):
        check_record_fields({"state": "done", "settings": {"keep": keep}})
    for keep in ("conv1", 3, {}, [3], [None], [["conv1"]]):
        with pytest.raises(ValueError, match="setting 'keep' must be a list"):
            check_record_fields({"state": "done", "settings": {"keep": keep}})
