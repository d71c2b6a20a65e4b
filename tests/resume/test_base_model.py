"""The base model of a run that goes on, and the one that `pretrain` writes: known by content, never replaced unasked."""

import json
import shutil

import pytest
import torch
from resumed import LITTLE, STE, only_run, record_of, train_little, without_checkpoints

from utils.choices import MODELS
from utils.run import epochs
from utils.run.folder.checkpoint import load_tensors


def pretrain(root, data, *flags):
    return ["pretrain", *LITTLE, "-d", data, "--results-root", str(root), *flags]


def test_a_run_whose_base_model_has_gone_is_resumed(ste_data, tmp_path, call_main, refused):
    root, base = tmp_path / "R", tmp_path / "base.pth"
    torch.manual_seed(5)
    torch.save(MODELS.load("ResNet8")(num_classes=2).state_dict(), base)
    command = train_little(root, ste_data, "-meta", "STE", "--pretrained", str(base))
    assert call_main(*command, "--stop-after", "3").code == 0
    run = only_run(root)
    digest = record_of(run)["base_model"]
    assert load_tensors(run / "checkpoint.pth", "test")["base_model"] == digest
    whole = base.read_bytes()
    base.write_bytes(whole[:-1])
    words = [f"began with weights other than what {base} holds now"]
    refused(command, words, root, "base model changed before a resume: refused")
    base.unlink()
    shutil.copytree(run, tmp_path / "saved")
    outcome = call_main(*command)
    assert outcome.code == 0, outcome.err
    assert outcome.err == f"note: there is no base model {base} any more; going on from the checkpoint\n"
    assert record_of(run)["base_model"] == digest
    shutil.rmtree(run)
    shutil.copytree(tmp_path / "saved", run)
    without_checkpoints(run)
    words = [f"there is no base model {base}", "or say where it is now"]
    refused(command, words, root, "base model and checkpoint gone: refused, nothing written")
    refused([*command, "--overwrite"], ["or none for scratch"], root, "base model and checkpoint gone: refused, nothing written")


def test_a_file_called_none_is_no_base_model(copied, ste_data, tmp_path, call_main, monkeypatch):
    root, run = copied("R")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").write_text("a note")
    outcome = call_main(*train_little(root, ste_data, *STE, "--stop-after", "3"))
    assert outcome.code == 0, outcome.err
    assert record_of(run).get("base_model") is None


def test_a_finished_base_model_is_not_replaced_by_a_resumed_trial(ste_data, tmp_path, call_main, refused, tally):
    root = tmp_path / "R"
    command = pretrain(root, ste_data, "-n", "1")
    second = [*command, "--trial", "2"]
    assert call_main(*second, "--stop-after", "1").code == 0
    assert call_main(*command).code == 0
    (base,) = root.rglob("*-pretrain.pth")
    made = base.read_bytes()
    kind = "a base model that another trial has made: not replaced without --overwrite"
    refused(second, [f"{base} exists already, and another run made it", "move it away"], root, kind)
    aside = base.rename(base.with_name("aside"))
    fit = epochs.fit

    def fit_while_another_finishes(*args):
        fit(*args)
        shutil.copy(aside, base)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "fit", fit_while_another_finishes)
        outcome = call_main(*second)
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert base.read_bytes() == made
    tally(kind)
    assert call_main(*second).code == 2  # its epochs are done: looked at again before writing
    assert base.read_bytes() == made
    base.unlink()
    outcome = call_main(*second)
    assert (outcome.code, outcome.err) == (0, "")
    own = base.read_bytes()
    assert own != made
    record = base.parent / "pretrain-trial-2" / "run.json"
    record.write_text(record.read_text().replace('"state": "done"', '"state": "running"'))  # killed just after writing
    outcome = call_main(*second)
    assert f"{base} holds these weights already" in outcome.out
    assert call_main(*second, "--overwrite", "--stop-after", "1").code == 0
    assert base.read_bytes() == own
    assert call_main(*second).code == 0  # --overwrite was given for this very base model
    assert base.with_name(f"{base.stem}-previous.pth").read_bytes() == own


def test_a_base_model_is_not_written_again_from_an_earlier_checkpoint(call_main, tiny_set, tmp_path):
    command = pretrain(tmp_path / "R", tiny_set)
    assert call_main(*command).code == 0
    run = only_run(tmp_path / "R")
    (base,) = (tmp_path / "R").rglob("*-pretrain.pth")
    base.unlink()
    (run / "checkpoint.pth").unlink()
    outcome = call_main(*command)
    assert (outcome.code, base.exists()) == (2, False)
    assert "is done after 4 iterations, and its last whole checkpoint is of 2" in outcome.err


def test_pretraining_that_ended_early_goes_on_after_its_base_model_was_written(call_main, tiny_set, tmp_path):
    """As after a kill between the base model and the record that says so."""
    command = pretrain(tmp_path / "R", tiny_set, "-n", "60", "-lr", "1e-6", "-ad", "adaptive")
    assert call_main(*command).code == 0
    run = only_run(tmp_path / "R")
    record = record_of(run)
    assert record.pop("ended_early")
    ended = record.pop("epochs_done")
    assert ended < 60
    for name in ("wrote", "result"):
        record.pop(name)
    more = {"epochs_done": ended, "ended_early": "alpha fell", "state": "running"}
    (run / "run.json").write_text(json.dumps(record | more))
    outcome = call_main(*command)
    assert outcome.code == 0, outcome.err
    assert "holds these weights already" in outcome.out
    assert record_of(run)["state"] == "done"
