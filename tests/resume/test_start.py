"""A run that begins with another run's weights: --pretrained RUN_DIR."""

import json
import shutil

import pytest
import torch
from resumed import assert_no_start, cut_checkpoints, only_run, record_of, without_checkpoints

from main import main
from utils.report.reading import find_trials
from utils.report.trials import group_trials
from utils.report.verdicts import differing_settings
from utils.run.folder.checkpoint import load_tensors, save_tensors

KIND = "run that others begin with: changed, damaged or of another net: refused, nothing written"


def train(root, data, *flags):
    flags = [str(flag) for flag in flags]
    return ["train", "-m", "ResNet8", "-bs", "4", "-lr", "0.05", "-meta", "STE", "-d", data, "--results-root", str(root), *flags]


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_set):
    """A run of 2 bits."""
    root = tmp_path_factory.mktemp("first")
    assert main(train(root, tiny_set, "-n", 2, "-bw", 2, "--pretrained", "none")) == 0
    return only_run(root)


def net_of(run):
    return load_tensors(run / "checkpoint.pth", "test")["loop"]["net"]


def test_it_begins_with_the_latent_weights(donor, call_main, tmp_path, tiny_set):
    command = train(tmp_path / "R", tiny_set, "-n", 1, "--pretrained", donor, "-lr", "1e-30")
    outcome = call_main(*command)
    assert (outcome.code, "note" in outcome.err) == (0, False)
    run = only_run(tmp_path / "R")
    W, start = net_of(run)["conv1.weight"], net_of(donor)["conv1.weight"]
    assert torch.equal(W, start)
    assert len(W.unique()) > 4  # W, not W_hat
    record = record_of(run)
    assert record["settings"]["pretrained"] == str(donor)
    assert len(record["base_model"]) == 64
    assert "is done" in call_main(*command).out


def test_the_digest_is_of_the_weights_and_not_of_the_file(donor, call_main, tmp_path, tiny_set):
    command = train(tmp_path / "R", tiny_set, "-n", 2, "--pretrained", donor)
    assert call_main(*command, "--stop-after", 1).code == 0
    digest = record_of(only_run(tmp_path / "R"))["base_model"]
    state = load_tensors(donor / "checkpoint.pth", "test")
    state["recorder"]["seconds_per_epoch"] = [7.0] * len(state["recorder"]["seconds_per_epoch"])
    state["loop"]["net"] = {name: value.contiguous() for name, value in state["loop"]["net"].items()}
    save_tensors(state, donor / "checkpoint.pth")
    moved = donor.rename(tmp_path / "moved")
    outcome = call_main(*command[:-1], moved)
    assert (outcome.code, "note" in outcome.err) == (0, False)
    assert "resumed after 1 iteration\n" in outcome.out
    run = only_run(tmp_path / "R")
    assert record_of(run)["base_model"] == load_tensors(run / "checkpoint.pth", "test")["base_model"] == digest


def test_a_changed_start_is_another_run(donor, call_main, tmp_path, tiny_set, tally):
    root = tmp_path / "R"
    command = train(root, tiny_set, "-n", 2, "--pretrained", donor)
    assert call_main(*command, "--stop-after", 1).code == 0
    run = only_run(root)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    whole = (donor / "checkpoint.pth").read_bytes()
    state = load_tensors(donor / "checkpoint.pth", "test")
    state["loop"]["net"]["fc.bias"] += 1
    save_tensors(state, donor / "checkpoint.pth")
    outcome = call_main(*command)
    (line,) = outcome.err.splitlines()
    assert f"began with weights other than what {donor} holds now" in line
    assert (outcome.code, {path: path.read_bytes() for path in run.iterdir() if path.is_file()}) == (2, before)
    tally(KIND)
    (donor / "checkpoint.pth").write_bytes(whole)
    shutil.rmtree(donor)
    outcome = call_main(*command)
    assert f"note: there is no base model {donor} any more; going on from the checkpoint\n" in outcome.err
    assert outcome.code == 0


def test_what_no_run_can_begin_with_is_one_line(donor, call_main, tmp_path, tiny_set, tally):
    def another_net(folder):
        state, record = load_tensors(folder / "checkpoint.pth", "test"), record_of(folder)
        state["loop"]["net"] |= {"fc.weight": torch.zeros(3, 64), "fc.bias": torch.zeros(3)}
        save_tensors(state, folder / "checkpoint.pth")
        assert record["settings"]["model"] == "ResNet8"

    def another_record(folder):
        record = record_of(folder)
        record["settings"]["bits"] = 3
        (folder / "run.json").write_text(json.dumps(record))

    def no_record(folder):
        (folder / "run.json").unlink()

    for number, (change, words) in enumerate(
        (
            (without_checkpoints, "it has no checkpoint yet"),
            (cut_checkpoints, "no checkpoint is whole and finite"),
            (another_net, "is the run of another net: fc.weight has shape (3, 64), not (2, 64) (and 1 more)"),
            (another_record, "has other settings: bits 2 there and 3 here"),
            (no_record, "it has no run.json"),
        )
    ):
        folder = shutil.copytree(donor, tmp_path / str(number))
        change(folder)
        outcome = call_main(*train(tmp_path / "R", tiny_set, "-n", 1, "--pretrained", folder))
        assert_no_start(outcome, "--pretrained", words, tmp_path / "R")
        tally(KIND)


def test_a_run_does_not_begin_with_itself(first, call_main, tiny_set, tally):
    root = first.parent.parent.parent
    outcome = call_main(*train(root, tiny_set, "-n", 2, "-bw", 2, "--pretrained", first, "--overwrite"))
    assert outcome.err == f"main.py: error: --pretrained: {first} is the folder of this run itself\n"
    assert (outcome.code, first.exists()) == (2, True)
    tally(KIND)


def test_the_report_tells_starts_apart(first, call_main, tmp_path, tiny_set):
    """Trials that began with other weights are not averaged; a method and its baseline that did are named as unfair."""
    for trial, flags in ((1, ["--pretrained", first]), (2, ["--pretrained", first]), (3, ["--pretrained", "none"])):
        assert call_main(*train(tmp_path / "R", tiny_set, "-n", 1, "--trial", trial, *flags)).code == 0
    groups, left_out = group_trials(find_trials([tmp_path / "R"])[0], lambda cell: None)
    assert sorted([trial.number for trial in group.trials] for group in groups) == [[1, 2], [3]]
    assert left_out == []
    names = {difference.setting for difference in differing_settings(*groups)}
    assert names == {"pretrained"}  # from scratch: there is no digest to compare
