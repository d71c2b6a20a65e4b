"""Runs with validation images: what they leave, that they go on to the same bytes, and that they are runs of their own."""

import json
import math

import pytest
from resumed import assert_same, only_run

from utils.quantize import Evaluation
from utils.run.folder.checkpoint import load_tensors

VALIDATION = ["--validation", "2", "-bs", "3", "-meta", "STE"]  # 6 images are left to train on, 2 batches


def rows(path):
    return [tuple(map(float, row.split(", "))) for row in path.read_text().splitlines()]


@pytest.mark.parametrize("loader", ["resident", "torchvision"])
def test_a_run_with_validation_is_resumed_to_the_same_bytes(loader, command, call_main, tmp_path, tally):
    flags = [*VALIDATION, "--loader", loader, "--checkpoint-every", "3it"]
    whole = call_main(*command("whole", *flags))
    assert whole.code == 0, whole.err
    assert call_main(*command("stopped", *flags, "--stop-after", "5")).code == 0
    stopped = only_run(tmp_path / "stopped") / "val-acc.txt"
    with open(stopped, "a") as file:
        file.write("3, 50\n")  # as if it had been killed an epoch later
    outcome = call_main(*command("stopped", *flags))
    assert outcome.code == 0, outcome.err
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    run = only_run(tmp_path / "whole")
    assert stopped.read_bytes() == (run / "val-acc.txt").read_bytes()
    validated, tested = rows(run / "val-acc.txt"), rows(run / "test-acc.txt")
    assert [epoch for epoch, _ in validated] == [1, 2, 3, 4, 5, 6]
    best = max(accuracy for _, accuracy in validated)
    first = next(epoch for epoch, accuracy in validated if accuracy == best)
    result = json.loads((run / "run.json").read_text())["result"]
    assert [result[name] for name in ("val_top1", "best_val_top1")] == pytest.approx([validated[-1][1], best])
    assert result["top1_at_best_val"] == pytest.approx(dict(tested)[first])
    line = whole.out.splitlines()[-1]
    assert f"validation accuracy {validated[-1][1]:.2f} % (best {best:.2f} %), test accuracy {tested[-1][1]:.2f} %" in line
    assert f"; {result['top1_at_best_val']:.2f} % at the best validation epoch" in call_main(*command("whole", *flags)).out
    tally("run with validation stopped, with a row too many, then resumed")


def test_validation_accuracies_that_have_changed_are_refused(command, call_main, tmp_path, tally):
    flags = [*VALIDATION, "--checkpoint-every", "1it"]
    assert call_main(*command("R", *flags, "--stop-after", "5")).code == 0
    run = only_run(tmp_path / "R")
    log = run / "val-acc.txt"
    for name, value in (("settings", None), ("log", log.read_bytes())):
        if name == "log":
            log.write_bytes(value.replace(b"1, ", b"1, 1", 1))
        before = {path: path.read_bytes() for path in run.iterdir() if path.suffix in (".txt", ".pth", ".json")}
        outcome = call_main(*command("R", *(flags if name == "log" else flags[2:])))
        assert outcome.code == 2
        if name == "settings":
            assert "validation 2 there and off here" in outcome.err
            assert {path: path.read_bytes() for path in before} == before
        else:
            assert "val-acc.txt has changed" in outcome.err
    tally("log file changed before a resume: refused, nothing touched")


def test_without_validation_nothing_changes(command, call_main, tmp_path):
    assert call_main(*command("R", "-meta", "STE", "-n", "1", "-ad", "1")).code == 0
    run = only_run(tmp_path / "R")
    assert not (run / "val-acc.txt").exists()
    record = json.loads((run / "run.json").read_text())
    assert record["result"].keys() == {"top1", "top5", "loss", "best_top1"}
    kept = load_tensors(run / "checkpoint.pth", "test")["recorder"]
    assert kept.keys() == {
        *("iteration", "test_acc", "epoch_losses", "seconds_per_epoch", "stop"),
        *("_drops", "_epochs_without_progress", "_lowest_loss"),  # of AdaptiveDrops
        "meters",
        "elapsed",
        "log_sizes",
        "log_hashes",
        "levels",
    }
    assert "val-acc" not in kept["log_sizes"]


def test_a_validation_loss_that_is_not_finite_ends_the_run(command, call_main, tmp_path, monkeypatch):
    evaluations = []

    def evaluate(net, quantizer, batches):
        evaluations.append(len(list(batches)))
        return evaluation._replace(loss=math.nan)

    evaluation = Evaluation(*[1.0] * len(Evaluation._fields))
    monkeypatch.setattr("utils.run.epochs.evaluate", evaluate)
    outcome = call_main(*command("R", *VALIDATION))
    assert outcome.code == 1
    assert "the validation loss is nan after 2 iterations" in outcome.err
    assert evaluations == [1]


def test_a_base_model_that_knows_the_validation_images_is_named(call_main, tiny_set, tmp_path):
    """Whether it does is known where `pretrain` wrote it."""
    where = ["-m", "ResNet8", "-d", tiny_set, "-bs", "3", "--results-root", tmp_path]
    split, other = ["--validation", "2", "--seed", "3"], ["--validation", "2", "--seed", "4"]

    def notes(*flags):
        outcome = call_main("train", *where, *split, "-meta", "STE", "-n", "1", *flags)
        assert outcome.code == 0, outcome.err
        return outcome.err

    for number, pretraining in enumerate((split, other)):
        made = call_main("pretrain", *where, *pretraining, "-n", "1", "--trial", number + 1, *(["--overwrite"] if number else []))
        assert made.code == 0, made.err
        record = tmp_path / "ResNet8-NPZ-tiny" / f"pretrain-trial-{number + 1}" / "run.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"ended": "2026-01-01T00:00:00"}))  # which says nothing
        seen = "was not trained with --validation 2 --seed 3 and has seen validation images: validation accuracy may be too high"
        expected = ["", seen]
        assert expected[number] in notes("-e", f"try-{number}")
        assert bool(expected[number]) == ("note: " in notes("-e", f"once-more-{number}"))
    ran = tmp_path / "ResNet8-NPZ-tiny" / "runs-Quant" / "Baseline-dorefa-optimizer-SGD-1bits-lr-30-try-0-trial-1"
    assert "began with weights that may have been trained on the validation" in notes("--pretrained", ran, "-e", "from-a-run")
    elsewhere = tmp_path / "elsewhere.pth"
    (base,) = tmp_path.rglob("*8-NPZ-tiny-pretrain.pth")
    elsewhere.write_bytes(base.read_bytes())
    assert "may have been trained on the validation images" in notes("--pretrained", elsewhere, "-e", "elsewhere")


def test_validation_accuracy_is_that_of_the_images_that_are_held_out(command, call_main, tmp_path, monkeypatch):
    """Two images are, and eight are for the test; an accuracy is their number here."""

    def evaluate(net, quantizer, batches):
        return Evaluation(loss=1.0, top1=float(sum(len(targets) for _, targets in batches)), top5=100.0)

    monkeypatch.setattr("utils.run.epochs.evaluate", evaluate)
    assert call_main(*command("R", *VALIDATION, "-n", "1")).code == 0
    run = only_run(tmp_path / "R")
    assert (rows(run / "val-acc.txt"), rows(run / "test-acc.txt")) == ([(1, 2)], [(1, 8)])
