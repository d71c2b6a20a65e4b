"""A run whose M begins as another run's left it, --phi RUN_DIR; and phi frozen after so many epochs, across interruptions."""

import json
import shutil

import pytest
import torch
from conftest import write_npz
from parsed import parsed
from resumed import assert_no_start, assert_same, cut_checkpoints, only_run, record_of, without_checkpoints

from main import main
from utils import MAIN
from utils.report.reading import find_trials
from utils.report.trials import group_trials
from utils.report.verdicts import differing_settings
from utils.run.folder.checkpoint import load_tensors, save_tensors
from utils.run.folder.name import run_path
from utils.run.settings import TrainSettings
from utils.tables.selection import State, TableRun

KIND = "phi of another run: changed, damaged or of another M: refused, nothing written"


def train(root, data, *flags):
    flags = [str(flag) for flag in flags]
    where = ["-d", data, "--results-root", str(root), "--pretrained", "none"]
    return ["train", "-m", "ResNet8", "-bs", "4", "-lr", "0.05", "-hidden", "5", *where, *flags]


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_set):
    """A finished run of MultiFC with dorefa."""
    root = tmp_path_factory.mktemp("first")
    assert main(train(root, tiny_set, "-n", 2)) == 0
    return only_run(root)


def state_of(run):
    return load_tensors(run / "checkpoint.pth", "test")


def phi_of(run):
    return state_of(run)["loop"]["meta_net"]


def change_checkpoint(folder, change):
    state = state_of(folder)
    change(state)
    save_tensors(state, folder / "checkpoint.pth")


def change_record(folder, change):
    record = record_of(folder)
    change(record)
    (folder / "run.json").write_text(json.dumps(record))


def change_settings(folder, **settings):
    """In record and checkpoint: a run that had other settings."""
    change_record(folder, lambda record: record["settings"].update(settings))
    change_checkpoint(folder, lambda state: state["settings"].update(settings))


def test_it_goes_with_another_net_quantizer_optimizer_and_data(donor, call_main, tmp_path):
    data = write_npz(tmp_path / "other.npz", classes=4)
    flags = ["-n", 2, "-m", "ResNet20", "-q", "BWN", "-o", "Adam", "--freeze-phi-after", 0, "--phi", donor]
    command = train(tmp_path / "R", data, *flags)
    outcome = call_main(*command)
    assert (outcome.code, "note" in outcome.err) == (0, False), outcome.err
    assert f"phi of {donor} frozen" in outcome.out
    run = only_run(tmp_path / "R")
    assert all(torch.equal(value, phi_of(donor)[name]) for name, value in phi_of(run).items())
    record = record_of(run)
    settings = record["settings"]
    assert (settings["phi"], settings["freeze_phi_after"], settings["meta_init"]) == (str(donor), 0, None)
    assert len(record["phi_digest"]) == 64
    assert state_of(run)["phi_digest"] == record["phi_digest"]
    assert "is done" in call_main(*command).out
    change_record(donor, lambda record: record.update(ended="later"))
    assert "is done" in call_main(*command).out


def test_a_table_does_not_take_a_run_with_another_phi_for_done(donor, call_main, tmp_path, tiny_set):
    other = shutil.copytree(donor, tmp_path / "elsewhere" / donor.name)
    change_checkpoint(other, lambda state: state["loop"]["meta_net"]["fc.maps.0.weight"].add_(1))
    command = train(tmp_path / "R", tiny_set, "-n", 1)
    assert call_main(*command, "--phi", donor).code == 0
    found = {}
    for phi in (donor, other):
        settings = TrainSettings.of(parsed([*command, "--phi", str(phi)]))
        found[phi] = TableRun(None, settings, run_path(settings), MAIN).state()
    assert found[donor] == (State.DONE, "")
    assert found[other][0] == State.REFUSED
    assert f"began with a phi other than what {other} holds now" in found[other][1]


def test_phi_is_trained_on_from_there(donor, call_main, tmp_path, tiny_set):
    assert call_main(*train(tmp_path / "R", tiny_set, "-n", 1, "--phi", donor, "--meta-lr", "1e-30")).code == 0
    start = phi_of(donor)
    assert all(torch.equal(value, start[name]) for name, value in phi_of(only_run(tmp_path / "R")).items())
    assert call_main(*train(tmp_path / "S", tiny_set, "-n", 1, "--phi", donor)).code == 0
    assert not any(torch.equal(value, start[name]) for name, value in phi_of(only_run(tmp_path / "S")).items())


def test_a_run_goes_on_when_phi_has_moved_or_gone_and_not_when_it_has_changed(donor, call_main, tmp_path, tiny_set, tally):
    root = tmp_path / "R"
    command = train(root, tiny_set, "-n", 3, "--checkpoint-every", "1it")
    assert call_main(*command, "--phi", donor, "--stop-after", 1).code == 0
    run = only_run(root)
    digest = record_of(run)["phi_digest"]
    moved = donor.rename(tmp_path / "moved")
    outcome = call_main(*command, "--phi", moved, "--stop-after", 2)
    assert (outcome.code, "note" in outcome.err) == (0, False)
    assert "resumed after 1 iteration\n" in outcome.out

    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    whole = (moved / "checkpoint.pth").read_bytes()
    change_checkpoint(moved, lambda state: state["loop"]["meta_net"]["fc.maps.0.weight"].add_(1))
    outcome = call_main(*command, "--phi", moved)
    (line,) = outcome.err.splitlines()
    assert f"began with a phi other than what {moved} holds now" in line
    assert (outcome.code, {path: path.read_bytes() for path in run.iterdir() if path.is_file()}) == (2, before)
    tally(KIND)
    for flags in ([], ["--meta-init", "identity"]):
        outcome = call_main(*command, *flags)
        assert (outcome.code, f"phi {moved} there and off here" in outcome.err) == (2, True)
        tally(KIND)

    (moved / "checkpoint.pth").write_bytes(whole)
    shutil.rmtree(moved)
    outcome = call_main(*command, "--phi", moved)
    assert f"note: there is no run {moved} any more; going on from the checkpoint\n" in outcome.err
    assert outcome.code == 0
    assert record_of(run)["phi_digest"] == state_of(run)["phi_digest"] == digest
    outcome = call_main(*command, "--phi", moved, "--overwrite")
    assert (outcome.code, outcome.err) == (2, f"main.py: error: --phi: there is no folder {moved}\n")
    tally(KIND)


def test_what_has_no_phi_for_the_run_is_one_line(donor, call_main, tmp_path, tiny_set, tally):
    def another_form(folder):
        change_checkpoint(folder, lambda state: state["loop"]["meta_net"].update({"fc.maps.0.weight": torch.zeros(6, 1)}))

    for number, (change, words) in enumerate(
        (
            (without_checkpoints, "it has no checkpoint yet"),
            (cut_checkpoints, "no checkpoint is whole and finite"),
            (another_form, "has a phi of another form: fc.maps.0.weight has shape (6, 1), not (5, 1)"),
            (lambda folder: (folder / "run.json").unlink(), "it has no run.json"),
            (lambda folder: change_record(folder, lambda record: record["settings"].update(bits=3)), "bits 1 there and 3 here"),
            (lambda folder: change_settings(folder, backward="STE"), "it has no M: --backward STE"),
            (lambda folder: change_settings(folder, backward=None), "it has no M: it is in full precision"),
            (
                lambda folder: change_settings(folder, backward="Own"),
                "this program does not know --backward Own: use the program",
            ),
            (lambda folder: change_settings(folder, backward="FC-Grad"), "--backward FC-Grad there and MultiFC here"),
            (lambda folder: change_settings(folder, hidden_size=6), "its M differs: --hidden-size 6 there and 5 here"),
            (lambda folder: change_settings(folder, num_fc=2), "--num-fc 2 there and 3 here"),
            (lambda folder: change_settings(folder, meta_nonlinear="tanh"), "--meta-nonlinear tanh there and none here"),
            (lambda folder: change_record(folder, lambda r: r.update(state="running", epochs_done=1)), "not finished: 1 of 2"),
        )
    ):
        folder = shutil.copytree(donor, tmp_path / str(number))
        change(folder)
        assert_no_start(call_main(*train(tmp_path / "R", tiny_set, "-n", 1, "--phi", folder)), "--phi", words, tmp_path / "R")
        tally(KIND)


def test_a_run_does_not_begin_with_its_own_phi(first, call_main, tiny_set, tally):
    root = first.parent.parent.parent
    outcome = call_main(*train(root, tiny_set, "-n", 2, "--phi", first, "--overwrite"))
    assert outcome.err == f"main.py: error: --phi: {first} is the folder of this run itself\n"
    assert (outcome.code, first.exists()) == (2, True)
    tally(KIND)


def test_the_report_tells_phis_apart_by_what_they_are(donor, call_main, tmp_path, tiny_set):
    same = shutil.copytree(donor, tmp_path / "same")
    other = shutil.copytree(donor, tmp_path / "other")
    change_checkpoint(other, lambda state: state["loop"]["meta_net"]["fc.maps.0.weight"].add_(1))
    for trial, phi in enumerate(([], ["--phi", donor], ["--phi", same], ["--phi", other]), 1):
        assert call_main(*train(tmp_path / "R", tiny_set, "-n", 1, "--trial", trial, *phi)).code == 0
    groups, left_out = group_trials(find_trials([tmp_path / "R"])[0], lambda cell: None)
    assert sorted([trial.number for trial in group.trials] for group in groups) == [[1], [2, 3], [4]]
    assert left_out == []
    by_trials = {tuple(trial.number for trial in group.trials): group for group in groups}
    assert "phi of another run" in by_trials[2, 3].label
    assert "phi" not in by_trials[1,].label
    assert by_trials[2, 3].label != by_trials[4,].label
    assert differing_settings(by_trials[2, 3], by_trials[1,]) == []  # they define the method


CASES = {
    "MultiFC": ["-o", "Adam"],
    "LSTMFC, in the paper's order": ["-meta", "LSTMFC", "--update-order", "paper", "-o", "SGD-M"],
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_before_at_and_after_the_freeze_and_resumed(case, command, call_main, tmp_path, tally):
    """Six epochs of two iterations, frozen after the third: iteration 6 is the first without phi's step."""
    flags = ["-hidden", "4", *CASES[case], "--freeze-phi-after", "3"]
    assert call_main(*command("whole", *flags)).code == 0
    phis = []
    for stop in (5, 6, 7, 1000):
        outcome = call_main(*command("stopped", *flags, "--checkpoint-every", "1it", "--stop-after", str(stop)))
        assert outcome.code == 0, outcome.err
        phis.append(phi_of(only_run(tmp_path / "stopped")))
    assert "resumed after 7 iterations" in outcome.out
    assert "phi frozen after 3 epochs" in outcome.out
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    name = "fc.maps.0.weight" if case == "MultiFC" else "fc.weight"
    assert not torch.equal(phis[0][name], phis[1][name])
    for later in phis[2:]:
        assert all(torch.equal(value, later[name]) for name, value in phis[1].items())
    tally("--stop-after before, at and after the freezing of phi, then without it", 3)


def test_what_the_other_run_has_seen_or_what_made_it_is_noted(first, donor, tiny_set, call_main, tmp_path):
    def notes(*flags):
        outcome = call_main(*train(tmp_path / str(len(list(tmp_path.iterdir()))), tiny_set, "-n", 1, "--phi", donor, *flags))
        assert outcome.code == 0, outcome.err
        return [line for line in outcome.err.splitlines() if line.startswith("note: ")]

    assert notes() == []
    (note,) = notes("--validation", 2)
    assert note.startswith(f"note: --phi {donor} was not trained with --validation 2 --seed 0 and has seen validation images")
    change_record(donor, lambda record: record.__setitem__("program", "1" * 64))
    change_checkpoint(donor, lambda state: state.__setitem__("program", "1" * 64))
    (note,) = notes()
    assert note == f"note: --phi {donor} was trained by another program, whose M may be another function of phi"
