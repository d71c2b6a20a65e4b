"""The check of a capture leaves everything as it was; a capture that fails or goes wrong is not used."""

import copy
import re

import numpy as np
import pytest
import torch
from tape import CannotCapture, Tape
from training_loops import CASES, COSINE, case_id, iterations, scheduled, train, train_scheduled

from meta_utils.iterations import Iterations
from utils.environment import random_states


def whole_state(work):
    return copy.deepcopy(work.loop.state_dict()), random_states()


def assert_same(ours, theirs):
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    else:
        assert ours == theirs


def advance(work, end):
    """Runs to an iteration; returns the losses on the way."""
    losses = []
    while work.loop.iteration < end:
        for measured in work.rest_of_epoch(work.loop.iteration // 4):
            losses += [one.loss for one in measured]
            if work.loop.iteration == end:
                break
    return losses


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.parametrize("begun", [0, 6])
def test_the_check_of_a_capture_leaves_everything_as_it_was(case, begun):
    """At the start of a run, or of a resumed one."""
    notes, tape = [], Tape()
    eager = iterations(case)
    advance(eager, begun)
    work = Iterations(eager.loop, eager.loader, tape, notes.append)
    before = whole_state(work)
    work.check_capture(begun // 4)
    assert_same(whole_state(work), before)
    assert notes == []
    assert tape.replays >= 3
    reference = iterations(case)
    advance(reference, begun)
    np.testing.assert_allclose(advance(work, 14), advance(reference, 14), rtol=1e-12)


def test_the_check_of_a_capture_leaves_the_rates_on_the_device_as_they_were():
    tape = Tape()
    work = scheduled(CASES[1], COSINE, tape)
    work._on_eager = pytest.fail
    before = whole_state(work)
    work.check_capture(0)
    assert work.loop.iteration == 0
    assert_same(work.loop.optimizee.state_dict()["state"], before[0]["optimizee"]["state"])
    reference = scheduled(CASES[1], COSINE, on_device=False)
    np.testing.assert_allclose(*(train_scheduled(each) for each in (work, reference)), rtol=1e-9)
    assert tape.captures == 3  # one size in the check, whose single batch of the other runs eagerly, and two after it


class ForgetsTheUpdate(Tape):
    """A capture that goes wrong: of every operation on a list of tensors only the first iteration's is done."""

    def capture(self, body):
        replay = super().capture(body)
        operations = replay.__closure__[replay.__code__.co_freevars.index("recorder")].cell_contents.operations
        operations[:] = [entry for entry in operations if "_foreach_add_" not in entry[0]._schema.name]
        return replay


def test_a_capture_that_does_something_else_is_not_used():
    for case in CASES[:5]:
        notes, tape = [], ForgetsTheUpdate()
        work = iterations(case, tape)
        work._on_eager = notes.append
        before = whole_state(work)
        work.check_capture(0)
        assert_same(whole_state(work), before)
        (note,) = notes
        assert "the losses of replayed iterations differ" in note or "the parameters of replayed iterations differ" in note
        tape.replays = 0
        assert train(work, epochs=2) == train(iterations(case), epochs=2)
        assert tape.replays == 0


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("nth", [1, 2, 4])
def test_a_capture_that_fails_makes_the_run_go_on_eagerly(error, nth):
    """At the check, or later, such as after a drop of the learning rate: the iteration is done, once, and so are all after it."""
    notes = []
    work = iterations(CASES[1], CannotCapture(nth, error))
    work._on_eager = notes.append
    if nth == 1:
        before = whole_state(work)
        work.check_capture(0)
        assert_same(whole_state(work), before)
    np.testing.assert_allclose(train(work), train(iterations(CASES[1])), rtol=1e-12)
    (note,) = notes
    assert re.fullmatch(r"the capture failed: CUDA out of memory\. Tried to allocate 2\.00 GiB \(tape\.py:\d+\)", note)
    assert work.loop.iteration == 20


class Spoilt(CannotCapture):
    """As torch ends a capture in which an operation was not permitted: by a second error, while the first is handled."""

    def capture(self, body):
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")


def test_the_first_error_of_a_capture_is_named_with_its_place():
    notes = []
    work = iterations(CASES[1], Spoilt())
    work._on_eager = notes.append
    train(work)
    (note,) = notes
    words = "the capture failed: operation not permitted when stream is capturing"
    assert re.fullmatch(rf"{words} \(test_capture_check\.py:\d+\)", note)
