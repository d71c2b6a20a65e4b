"""The optimizees equal torch.optim over a grid of settings, in float64."""

import itertools
import subprocess
import sys

import pytest
import torch

from meta_utils.adam import Adam
from meta_utils.optimizee import apply_gradients
from meta_utils.SGD import SGD
from utils import PROJECT
from utils.choices import OPTIMIZEES

SGD_GRID = [
    {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": decay, "nesterov": nesterov}
    for lr, momentum, dampening, decay, nesterov in itertools.product(
        [0.1, 1e-3], [0.0, 0.9], [0.0, 0.3], [0.0, 5e-4], [False, True]
    )
    if not (nesterov and (momentum == 0 or dampening != 0))
]
ADAM_GRID = [
    {"lr": lr, "betas": betas, "eps": eps, "weight_decay": decay, "amsgrad": amsgrad}
    for lr, betas, eps, decay, amsgrad in itertools.product(
        [0.1, 1e-3], [(0.9, 0.999), (0.5, 0.9)], [1e-8, 1e-3], [0.0, 5e-4], [False, True]
    )
]


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5,), (2, 1, 3, 3), (4, 2)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def gradients(step, params):
    """Of very different sizes; the last two parameters get their first at step 3, and one of them has none at step 6."""
    generator = torch.Generator().manual_seed(step + 1)
    scales = [1.0, 1e-6, 30.0, 1.0]
    return [
        None
        if (i >= 2 and step < 3) or (i, step) == (2, 6)
        else scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        for i, (p, scale) in enumerate(zip(params, scales[: len(params)], strict=True))
    ]


def run(optimizer, params, steps=range(10), step=None):
    for t in steps:
        for p, g in zip(params, gradients(t, params), strict=True):
            p.grad = g
        (step or optimizer.step)()
    return [p.detach().clone() for p in params]


@pytest.mark.parametrize("options", SGD_GRID, ids=str)
def test_sgd_equals_torch(options):
    ours, theirs = parameters(), parameters()
    torch.testing.assert_close(
        run(SGD(ours, **options), ours), run(torch.optim.SGD(theirs, **options), theirs), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("options", ADAM_GRID, ids=str)
def test_adam_equals_torch(options):
    ours, theirs = parameters(), parameters()
    torch.testing.assert_close(
        run(Adam(ours, bias_corrected_eps=True, **options), ours),
        run(torch.optim.Adam(theirs, **options), theirs),
        rtol=1e-12,
        atol=1e-15,
    )


@pytest.mark.parametrize("options", ADAM_GRID, ids=str)
def test_published_adam_has_eps_before_the_bias_correction(options):
    """Its eps at step t is torch's divided by sqrt(1 - beta2^t); with that eps per step the two are equal."""
    ours, theirs = parameters()[:2], parameters()[:2]  # both with a gradient from the start: one t for all
    reference = torch.optim.Adam(theirs, **options)
    steps = itertools.count(1)

    def step():
        reference.param_groups[0]["eps"] = options["eps"] / (1 - options["betas"][1] ** next(steps)) ** 0.5
        reference.step()

    got = run(Adam(ours, **options), ours)
    torch.testing.assert_close(got, run(reference, theirs, step=step), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZEES)
def test_refined_gradient_is_the_step_without_lr_and_moves_nothing(name):
    choice = OPTIMIZEES[name]
    stepped, refined = parameters(), parameters()
    run(choice.build(stepped, lr=0.05, weight_decay=choice.decay_learned), stepped)
    optimizee = choice.build(refined, lr=1e9, weight_decay=choice.decay_learned)

    def refine_then_update():
        before = [p.detach().clone() for p in refined]
        grads = [p.grad for p in refined]
        optimizee.get_refine_gradient()
        assert all(torch.equal(p, b) for p, b in zip(refined, before, strict=True))
        assert all(p.grad is g for p, g in zip(refined, grads, strict=True))  # in place
        apply_gradients([p for p in refined if p.grad is not None], 0.05)

    run(optimizee, refined, step=refine_then_update)
    assert all(torch.equal(p, q) for p, q in zip(stepped, refined, strict=True))


@pytest.mark.parametrize("name", OPTIMIZEES)
def test_state_dict_round_trip(name):
    whole, halves = parameters(), parameters()
    expected = run(OPTIMIZEES[name].build(whole, lr=0.1, weight_decay=0.01), whole)
    first = OPTIMIZEES[name].build(halves, lr=0.1, weight_decay=0.01)
    run(first, halves, steps=range(5))
    second = OPTIMIZEES[name].build(halves, lr=7.0, weight_decay=0.0)
    second.load_state_dict(first.state_dict())
    got = run(second, halves, steps=range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(("ours", "theirs"), [(SGD, torch.optim.SGD), (Adam, torch.optim.Adam)])
def test_state_dicts_have_torchs_names(ours, theirs):
    options = {"momentum": 0.9} if ours is SGD else {"amsgrad": True}
    states = []
    for kind in (ours, theirs):
        params = parameters()
        optimizer = kind(params, lr=0.1, **options)
        run(optimizer, params)
        states.append(optimizer.state_dict()["state"])
    assert [sorted(s) for s in states[0].values()] == [sorted(s) for s in states[1].values()]


def test_parameters_with_one_history_share_their_step_count():
    """So that a scalar of all of them is one number, by which a list is multiplied at once; also after a resume."""
    params = parameters()
    optimizee = Adam(params)
    counts = [[4, 4, 1, 1], [7, 7, 3, 4]]  # which of them are the same tensor changes at step 6
    for steps, expected in zip((range(4), range(4, 7)), counts, strict=True):
        run(optimizee, params, steps=steps)
        for _ in ("as it is", "loaded"):
            found = [optimizee.state[p]["step"] for p in params]
            assert [int(step) for step in found] == expected
            assert len({id(step) for step in found}) == len(set(expected))
            optimizee.load_state_dict(optimizee.state_dict())


def test_groups_do_not_share_step_counts():
    """Each counts its own refinements; equal counts of two groups stay apart when they are loaded."""
    ours, theirs = parameters()[:2], parameters()[:2]
    optimizers = [
        kind([{"params": [first]}, {"params": [second]}], lr=0.1, **options)
        for kind, (first, second), options in [(Adam, ours, {"bias_corrected_eps": True}), (torch.optim.Adam, theirs, {})]
    ]
    for optimizer, params in zip(optimizers, (ours, theirs), strict=True):
        run(optimizer, params, steps=range(3))
        optimizer.load_state_dict(optimizer.state_dict())
        run(optimizer, params, steps=range(3, 6))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", OPTIMIZEES)
def test_a_group_without_gradients_is_left_alone(name):
    frozen, trained = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizee = OPTIMIZEES[name].build([{"params": [frozen]}, {"params": [trained]}], lr=0.5, weight_decay=0.1)
    trained.grad = torch.ones(2)
    optimizee.step()
    assert frozen.tolist() == [1.0, 1.0]
    assert (trained < 1).all()


def test_step_takes_a_closure():
    p = torch.ones(2, requires_grad=True)
    optimizee = SGD([p], lr=0.5)

    def closure():
        optimizee.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizee.step(closure).item() == 2.0
    assert p.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (SGD, {"lr": -1}),
        (SGD, {"momentum": -0.1}),
        (SGD, {"weight_decay": -1e-4}),
        (SGD, {"nesterov": True}),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        (Adam, {"lr": -1}),
        (Adam, {"eps": -1}),
        (Adam, {"betas": (1.0, 0.9)}),
        (Adam, {"betas": (0.9, -0.1)}),
    ],
)
def test_wrong_settings_are_refused(kind, options):
    with pytest.raises(ValueError):  # noqa: PT011 (each names its own setting)
        kind(parameters(), **options)


def test_an_optimizee_does_not_import_torch_compile():
    code = """if True:
        import sys, torch
        from meta_utils.SGD import SGD
        optimizee = SGD([torch.nn.Parameter(torch.ones(1))])
        optimizee.zero_grad()
        optimizee.load_state_dict(optimizee.state_dict())
        sys.exit("torch._dynamo" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


def test_adam_counts_on_in_bf16():
    p = torch.zeros(1, dtype=torch.bfloat16, requires_grad=True)
    ours, theirs = Adam([p], lr=0.0, bias_corrected_eps=True), torch.optim.Adam([p], lr=0.0)
    for optimizer in (ours, theirs):
        for _ in range(301):
            p.grad = torch.ones_like(p)
            optimizer.step()
    assert ours.state[p]["step"] == theirs.state[p]["step"] == 301
    again = Adam([p], bias_corrected_eps=True)
    again.load_state_dict(ours.state_dict())
    again.step()
    assert again.state[p]["step"] == 302
