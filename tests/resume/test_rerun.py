"""The same command once more: of a run that is done, moved, locked, to be overwritten, or without its last checkpoint."""

import json

from resumed import only_run, record_of


def test_a_done_run_says_so_and_other_settings_are_refused(command, call_main, tmp_path):
    first = call_main(*command("again"))
    assert first.code == 0, first.err
    run = only_run(tmp_path / "again")
    files = {path: path.read_bytes() for path in run.iterdir()}
    second = call_main(*command("again"))
    assert second.code == 0
    best = record_of(run)["result"]["best_top1"]
    assert second.out.startswith(f"{run} is done: test accuracy ")
    assert f"(best {best:.2f} %)" in second.out
    other = call_main(*command("again", "-lr", "0.1", "--seed", "3"))
    assert other.code == 2
    assert "init_lr 0.05 there and 0.1 here, seed 0 there and 3 here" in other.err
    assert {path: path.read_bytes() for path in run.iterdir()} == files
    elsewhere = call_main(*command("again", "--workers", "1", "--data-root", str(tmp_path), "--checkpoint-every", "5it"))
    assert elsewhere.code == 0  # where and how often, not what
    assert elsewhere.out == second.out


def test_a_run_goes_on_where_its_folder_was_moved_to_and_on_another_device(half, command, call_main, tmp_path):
    run = half("begun")
    record = record_of(run)
    memory = {"cpu_rss": 2**60, "cuda": 5}
    begun_on = {"device": "cuda:0: a GPU", "settings": record["settings"] | {"device": "cuda"}, "peak_memory": memory}
    (run / "run.json").write_text(json.dumps(record | begun_on))
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "begun").rename(tmp_path / "elsewhere" / "moved")
    result = call_main(*command("elsewhere/moved", "--device", "cpu"))
    assert result.code == 0, result.err
    assert "was on cuda:0: a GPU before; now cpu: " in result.err
    record = record_of(only_run(moved))
    assert record["state"] == "done"
    assert len(record["sessions"]) == 2
    assert {session["device"] for session in record["sessions"]} == {record["device"]}
    assert record["peak_memory"] == memory  # the most of all sessions


def test_a_folder_that_cannot_be_locked_is_one_line(half, command, call_main):
    lock = half("locked") / "run.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    result = call_main(*command("locked"))
    assert result.code == 2
    assert "cannot be used" in result.err.splitlines()[-1]


def test_overwrite_moves_the_old_run_aside(command, call_main, tmp_path):
    assert call_main(*command("again", "-n", "1")).code == 0
    run = only_run(tmp_path / "again")
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    result = call_main(*command("again", "-n", "2", "--overwrite"))
    assert result.code == 0, result.err
    (old,) = (run.parent / "replaced").iterdir()
    assert {path.name: path.read_bytes() for path in old.iterdir()} == files
    assert f"moved the old run to {old}" in result.out
    assert record_of(run)["settings"]["epochs"] == 2
    table = call_main("report", tmp_path / "again").out
    assert table.count("| dorefa SGD MultiFC (batch_size 4, from scratch, init_lr 0.05, lr_adjust 2) |") == 1


def test_a_session_begins_without_what_the_one_before_recorded_of_its_end(half, command, call_main):
    run = half("R")
    record = record_of(run)
    assert "stopped after 5 iterations" in record["error"]
    ends = {"ended": "2026", "eager_because": "capture failed"}
    (run / "run.json").write_text(json.dumps(record | ends))
    assert call_main(*command("R", "--checkpoint-every", "1it", "--stop-after", "7")).code == 0
    record = record_of(run)
    assert not ends.keys() & record.keys()
    assert "stopped after 7 iterations" in record["error"]


def test_a_finished_runs_earlier_checkpoint_is_not_taken_for_its_end(command, call_main, tmp_path):
    assert call_main(*command("R", "-meta", "STE")).code == 0
    run = only_run(tmp_path / "R")
    (run / "checkpoint.pth").unlink()
    for words in (["evaluate", run], ["export", run, tmp_path / "net.safetensors"], [*command("next"), "--pretrained", run]):
        outcome = call_main(*words)
        assert outcome.code == 2
        assert f"warning: checkpoint: {run / 'checkpoint.pth'} is not there; going on from" in outcome.err
        words = "is done after 12 iterations, and its last whole checkpoint is of 10: put its own checkpoint.pth back"
        assert words in outcome.err


def test_a_resumed_runs_seconds_are_those_of_all_sessions(half, command, call_main):
    run = half("R")
    (run / "run.json").write_text(json.dumps(record_of(run) | {"seconds": 1e6}))
    assert call_main(*command("R", "--checkpoint-every", "1it", "--stop-after", "6")).code == 0
    assert 1e6 < record_of(run)["seconds"] < 1e6 + 600


def test_a_run_that_was_killed_after_its_last_checkpoint_keeps_its_result(command, call_main, tmp_path):
    """Before its record said that it was done: there is nothing left to train or to test."""
    assert call_main(*command("R", "-meta", "STE", "-n", "1")).code == 0
    run = only_run(tmp_path / "R")
    record = record_of(run)
    known = {name: value for name, value in record.items() if name not in ("result", "ended")}
    (run / "run.json").write_text(json.dumps(known | {"state": "running"}))
    assert call_main(*command("R", "-meta", "STE", "-n", "1")).code == 0
    assert record["result"].keys() == {"top1", "top5", "loss", "best_top1"}
    assert [record_of(run)[name] for name in ("state", "result")] == ["done", record["result"]]
