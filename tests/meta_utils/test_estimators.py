"""The fixed gradient estimators: formulas, derivatives, schedules, and what a captured iteration asks of them."""

import doctest
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tape import Tape

from meta_utils import estimators
from meta_utils.estimators import EDE, ESTIMATORS, EWGS, BinaryRelax, Estimator, ReSTE

PROGRESS = [0.0, 0.25, 0.5, 0.75, 0.8, 1.0]
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.float64: {"rtol": 1e-12, "atol": 1e-14}}
DTYPES = list(TOLERANCE)


def ede(x, progress):
    t = 10 ** (-1 + 2 * progress)
    return max(1 / t, 1) * t * (1 - math.tanh(t * x) ** 2)


def reste(x, progress):
    o = 1 + 2 * progress
    if abs(x) > 1.5:
        return 0.0
    return 0.1 ** (1 / o) / 0.1 if abs(x) < 0.1 else 1 / o * abs(x) ** (1 / o - 1)


def ewgs(g_q, x, q):
    return g_q * (1 + 0.001 * math.copysign(1, g_q) * (x - q) / 2)


GRADIENTS = {  # g_x of one coordinate, the specification's table in plain Python
    "STE": lambda g_q, x, q, progress: g_q * (abs(x) <= 1),
    "STE-identity": lambda g_q, x, q, progress: g_q,
    "ApproxSign": lambda g_q, x, q, progress: g_q * max(0, 2 - 2 * abs(x)),
    "EDE": lambda g_q, x, q, progress: g_q * ede(x, progress),
    "ReSTE": lambda g_q, x, q, progress: g_q * reste(x, progress),
    "EWGS": lambda g_q, x, q, progress: ewgs(g_q, x, q),
    "BinaryRelax": lambda g_q, x, q, progress: g_q,
}


def relaxed(x, q, progress):
    if progress >= 0.8:
        return q
    growth = 100 ** (progress / 0.8)
    return (growth * q + x) / (growth + 1)


def points(dtype):
    """x at 0 and at the kinks 0.1, 1 and 1.5, beside them on both sides, and elsewhere; both signs."""
    real = np.float32 if dtype == torch.float32 else np.float64
    kinks = [real(kink) for kink in (0, 0.1, 1, 1.5)]
    beside = [np.nextafter(kink, real(to)) for kink in kinks for to in (0, 9)]
    positive = [float(x) for x in (*kinks, *beside, 1e-6, 0.03, 0.3, 0.7, 1.2, 4.0)]
    return [*positive, *(-x for x in positive)]


def cases(dtype):
    """g_q, x and q in all combinations, flat."""
    axes = [torch.tensor(values, dtype=dtype) for values in ([-2.5, -1e-3, 0.0, 0.7], points(dtype), [-1, -1 / 3, 1 / 3, 1])]
    return torch.cartesian_prod(*axes).unbind(1)


def at(progress, dtype=torch.float64):
    return torch.tensor(progress, dtype=dtype)


def slope(estimator, x, progress):
    """g_x / g_q as numbers."""
    x = torch.tensor(x, dtype=torch.float64)
    return estimator(torch.ones_like(x), x, torch.ones_like(x), at(progress)).tolist()


def test_the_registry_names_the_seven_estimators():
    assert list(ESTIMATORS) == list(GRADIENTS)
    assert [name for name, e in ESTIMATORS.items() if e.standardized] == ["EDE"]
    assert [name for name, e in ESTIMATORS.items() if e.scheduled] == ["EDE", "ReSTE", "BinaryRelax"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("progress_dtype", DTYPES)
@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_each_gradient_equals_its_formula(name, progress, progress_dtype, dtype):
    g_q, x, q = cases(dtype)
    found = ESTIMATORS[name](g_q, x, q, at(progress, progress_dtype))
    formula = GRADIENTS[name]
    expected = [formula(*numbers, progress) for numbers in zip(g_q.tolist(), x.tolist(), q.tolist(), strict=True)]
    tolerance = TOLERANCE[dtype if progress_dtype == torch.float64 else torch.float32]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=dtype), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", GRADIENTS)
def test_each_forward_value_equals_its_formula(name, progress, dtype):
    _, x, q = cases(dtype)
    value = ESTIMATORS[name].forward_value(x, q, at(progress))
    if name != "BinaryRelax":
        assert torch.equal(value, q)
        return
    expected = [relaxed(*numbers, progress) for numbers in zip(x.tolist(), q.tolist(), strict=True)]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=dtype), **TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_ste_is_exact(dtype):
    """At |x| = 1 and the numbers next to it, too."""
    g_q, x, q = cases(dtype)
    one = torch.ones((), dtype=dtype)
    edges = torch.stack([torch.nextafter(one, 0 * one), one, torch.nextafter(one, 2 * one)])
    x = torch.cat([x, edges, -edges])
    g_q, q = torch.cat([g_q, torch.full((6,), -0.3, dtype=dtype)]), torch.cat([q, torch.ones(6, dtype=dtype)])
    assert torch.equal(ESTIMATORS["STE"](g_q, x, q, at(0.5)), g_q * (x.abs() <= 1))


FUNCTIONS = {  # the function whose derivative the estimator takes, where it has no kink or step
    "STE": lambda x, progress: np.clip(x, -1, 1),
    "ApproxSign": lambda x, progress: np.where(np.abs(x) < 1, 2 * x - np.sign(x) * x**2, np.sign(x)),
    "EDE": lambda x, progress: max(10 ** (1 - 2 * progress), 1) * np.tanh(10 ** (2 * progress - 1) * x),
    "ReSTE": lambda x, progress: np.sign(x) * np.abs(x) ** (1 / (1 + 2 * progress)),
}


@pytest.mark.parametrize("progress", PROGRESS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_derivative_by_finite_differences(name, progress):
    h = 1e-6
    positive = np.linspace(0.103, 1.49, 60) if name == "ReSTE" else np.linspace(0.003, 2.5, 60)
    x = np.concatenate([-positive, positive])
    assert np.abs(np.abs(x) - 1).min() > h
    difference = (FUNCTIONS[name](x + h, progress) - FUNCTIONS[name](x - h, progress)) / (2 * h)
    np.testing.assert_allclose(slope(ESTIMATORS[name], x, progress), difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("progress", PROGRESS)
def test_reste_below_a_tenth_has_the_slope_of_the_chord(progress):
    function = FUNCTIONS["ReSTE"]
    chord = (function(0.1, progress) - function(0.0, progress)) / 0.1
    np.testing.assert_allclose(slope(ReSTE(), [0.0, -0.0, 1e-300, -0.05, 0.0999], progress), chord, rtol=1e-12)


def test_reste_begins_as_the_indicator():
    x = torch.tensor(points(torch.float64), dtype=torch.float64)
    assert slope(ReSTE(), x.tolist(), 0.0) == (x.abs() <= 1.5).double().tolist()


def test_ede_turns_from_the_identity_into_a_peak():
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)
    t = EDE().t(grid)
    torch.testing.assert_close(t[[0, 50, 100]], torch.tensor([0.1, 1, 10], dtype=torch.float64))
    assert (t.diff() > 0).all()
    at_zero, at_two = torch.tensor([slope(EDE(), [0.0, 2.0], progress) for progress in grid.tolist()]).unbind(1)
    assert (at_zero.diff() >= -1e-12).all()
    torch.testing.assert_close(at_zero[[0, 50, 100]], torch.tensor([1.0, 1.0, 10.0]))
    assert at_two[0] > 0.95
    assert at_two[-1] < 1e-12


def test_o_of_reste_grows_linearly():
    o = ReSTE().o(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert o[[0, 50, 100]].tolist() == [1, 2, 3]
    torch.testing.assert_close(o.diff(), torch.full((100,), 0.02, dtype=torch.float64))


def test_lambda_grows_geometrically_until_the_hard_phase():
    growth = BinaryRelax().relaxation(torch.linspace(0, 0.8, 81, dtype=torch.float64))
    torch.testing.assert_close(growth[[0, 40, 80]], torch.tensor([1, 10, 100], dtype=torch.float64))
    torch.testing.assert_close(growth[1:] / growth[:-1], torch.full((80,), 100 ** (1 / 80), dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("progress", [0.8, 0.9, 1.0])
def test_the_hard_phase_of_binary_relax_is_q_bit_for_bit(progress, dtype):
    x = torch.tensor([0.3, -math.inf, math.nan, 1e30, 0.0, -0.7], dtype=dtype)
    q = torch.tensor([1.0, -1.0, 1.0, 1 / 3, -0.0, -1.0], dtype=dtype)
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    for progress_dtype in DTYPES:
        value = BinaryRelax().forward_value(x, q, at(progress, progress_dtype))
        assert torch.equal(value.view(bits), q.view(bits))


def test_before_the_hard_phase_binary_relax_is_between_x_and_q():
    x, q = torch.tensor([0.2, -0.4, 3.0]), torch.tensor([1.0, -1.0, 1.0])
    distances = [(BinaryRelax().forward_value(x, q, at(p)) - q) / (x - q) for p in (0, 0.2, 0.4, 0.6, 0.799)]
    assert all((later < sooner).all() for sooner, later in pairwise(distances))
    torch.testing.assert_close(distances[0], torch.full((3,), 0.5))
    assert (distances[-1] > 0.009).all()


def test_settings_reach_the_formulas():
    assert slope(ReSTE(o_end=2, chord_below=0.25, zero_above=0.5), [0.0, 0.25, 0.5, 0.6], 1.0) == pytest.approx(
        [2, 1, 0.5**0.5, 0]
    )
    g_q, x, q = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.0])
    torch.testing.assert_close(EWGS(delta=0.4)(g_q, x, q, at(0.0)), torch.tensor([0.9, -1.1]))
    relax = BinaryRelax(lambda_end=9, hard_from=0.5)
    torch.testing.assert_close(relax.forward_value(x, -q, at(0.25)), torch.full((2,), (3 * -1 + 0.5) / 4))
    assert torch.equal(relax.forward_value(x, -q, at(0.5)), -q)


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (ReSTE, {"o_end": 0.5}, "ReSTE's o_end must be a finite number of at least 1, not 0.5"),
        (ReSTE, {"o_end": math.inf}, "o_end must be .*, not inf"),
        (ReSTE, {"chord_below": 0.0}, "ReSTE's chord_below must be above 0 and below zero_above = 1.5, not 0.0"),
        (ReSTE, {"chord_below": 1.5}, "chord_below must be .*, not 1.5"),
        (ReSTE, {"zero_above": math.nan}, "ReSTE's zero_above must be a finite number above 0, not nan"),
        (ReSTE, {"zero_above": math.inf}, "zero_above must be .*, not inf"),
        (EWGS, {"delta": -1e-3}, "EWGS's delta must be a finite number of at least 0, not -0.001"),
        (EWGS, {"delta": math.inf}, "delta must be .*, not inf"),
        (EWGS, {"delta": math.nan}, "delta must be .*, not nan"),
        (BinaryRelax, {"lambda_end": 0.9}, "BinaryRelax's lambda_end must be a finite number of at least 1, not 0.9"),
        (BinaryRelax, {"lambda_end": math.inf}, "lambda_end must be .*, not inf"),
        (BinaryRelax, {"hard_from": 0.0}, "BinaryRelax's hard_from must be above 0 and at most 1, not 0.0"),
        (BinaryRelax, {"hard_from": 1.1}, "hard_from must be .*, not 1.1"),
    ],
)
def test_a_setting_out_of_range_is_named(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def both_results(name, g_q, x, q, progress):
    return ESTIMATORS[name](g_q, x, q, progress), ESTIMATORS[name].forward_value(x, q, progress)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_results_have_the_dtype_shape_and_device_of_x(name, device):
    """The meta device has shapes and no numbers, so that an estimator that asks for a number raises."""
    for dtype in DTYPES:
        for progress_dtype in DTYPES:
            progress = torch.full((), 0.5, dtype=progress_dtype, device=device)
            for shape in ((), (0,), (5,), (2, 3, 3, 3), (0, 4)):
                g_q, x, q = (torch.full(shape, value, dtype=dtype, device=device) for value in (2.0, 0.25, 1.0))
                for result in both_results(name, g_q, x, q, progress):
                    assert (result.dtype, result.shape, result.device) == (dtype, x.shape, x.device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_arguments_stay_as_they_are(name, dtype):
    arguments = [tensor.clone() for tensor in (*cases(dtype), at(0.3, dtype))]
    before = [tensor.clone() for tensor in arguments]
    both_results(name, *arguments)
    assert all(map(torch.equal, arguments, before))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_are_finite_everywhere(name):
    """Also where the formula's power is infinite, and far out."""
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-38, 1e38, -1e38])
    for progress in PROGRESS:
        assert ESTIMATORS[name](torch.ones(6), x, torch.ones(6), at(progress)).isfinite().all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_recorded_estimator_follows_progress(name):
    """Recorded once and replayed with other numbers in the same tensors, as a CUDA graph is, it equals an eager call."""
    g_q, x, q = (tensor.clone() for tensor in cases(torch.float32))
    progress = at(0.0, torch.float32)
    gradient, value = torch.empty_like(x), torch.empty_like(x)

    def body():
        for place, result in zip((gradient, value), both_results(name, g_q, x, q, progress), strict=True):
            place.copy_(result)

    replay = Tape().capture(body)
    for number in PROGRESS:
        progress.fill_(number)
        g_q.mul_(-0.5)
        replay()
        for place, result in zip((gradient, value), both_results(name, g_q, x, q, progress), strict=True):
            assert torch.equal(place, result)


def test_an_estimator_without_a_formula_says_so():
    class Nothing(Estimator):
        pass

    x = torch.zeros(2)
    with pytest.raises(NotImplementedError, match="Nothing does not define __call__"):
        Nothing()(x, x, x, at(0.0))
    assert Nothing().forward_value(x, x + 1, at(0.0)).tolist() == [1, 1]


def test_the_examples_in_the_docstrings():
    outcome = doctest.testmod(estimators)
    assert outcome.failed == 0
    assert outcome.attempted >= 2 * len(ESTIMATORS)
