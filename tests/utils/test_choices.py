"""The registries: what an entry says of a class must be what the class says of itself."""

import subprocess
import sys
from inspect import signature

import pytest
from torch.nn import Module

from utils import PROJECT
from utils.choices import (
    DATASETS,
    ESTIMATORS,
    LOADERS,
    META_NETWORKS,
    MODELS,
    OPTIMIZEES,
    PROXIMAL,
    QUANTIZERS,
    Place,
    Registry,
    is_trained,
    usual_bits,
)

REGISTRIES = {"quantizers": QUANTIZERS, "meta networks": META_NETWORKS, "models": MODELS, "data": DATASETS, "loaders": LOADERS}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, registry in REGISTRIES.items() for name in registry])
def test_every_place_exists(kind, name):
    assert callable(REGISTRIES[kind].load(name))


@pytest.mark.parametrize("name", META_NETWORKS)
def test_options_are_the_constructors(name):
    own = {p.name: p.default for p in signature(META_NETWORKS.load(name)).parameters.values()}
    assert META_NETWORKS.options(name) == own


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_takes_bits(name):
    own = {p.name: p.default for p in signature(QUANTIZERS.load(name)).parameters.values()}
    assert QUANTIZERS.options(name) == own == {"bits": usual_bits(name)}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_a_quantizer_with_parameters_is_a_module_with_a_start(name):
    made = QUANTIZERS.load(name)
    assert is_trained(name) == issubclass(made, Module) == hasattr(made, "start")


@pytest.mark.parametrize("name", OPTIMIZEES)
def test_an_optimizees_options_are_its_classs(name):
    choice = OPTIMIZEES[name]
    taken = signature(choice.optimizee.load()).parameters
    assert {*choice.options, *choice.options_ste, "lr", "weight_decay"} <= set(taken)


def test_a_class_registers_itself():
    class Gain:
        def __init__(self, hidden_size=7, *args, **kwargs):
            self.hidden_size = hidden_size

    registry = Registry({"there": Place("utils.choices:Place")})
    registry["Gain"] = Gain
    assert registry.load("Gain")(3).hidden_size == 3
    assert registry.options("Gain") == {"hidden_size": 7}
    assert registry.load("there") is Place


def test_names_need_no_torch():
    code = "import utils.choices, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-x", " x", "a\nb", "x" * 101, 5])
def test_a_name_that_no_record_or_folder_can_have_is_refused(name):
    ways = (
        lambda: QUANTIZERS.__setitem__(name, object),
        lambda: QUANTIZERS.update({name: object}),
        lambda: QUANTIZERS.setdefault(name, object),
        lambda: Registry({name: object}),
        lambda: OPTIMIZEES.update({name: object}),
    )
    for way in ways:
        with pytest.raises(ValueError, match="a registered name must be 1 to 100 printable characters"):
            way()
    assert name not in QUANTIZERS


@pytest.mark.parametrize(("registry", "name"), [(QUANTIZERS, "dorefa"), (ESTIMATORS, "EDE"), (DATASETS, "Digits")])
def test_a_built_in_name_stays_what_it_is(registry, name):
    before = registry.load(name)
    with pytest.raises(ValueError, match=f"{name} is the name of a built-in one"):
        registry[name] = object
    assert registry.load(name) is before


METHODS = {"estimators": ESTIMATORS, "meta networks": META_NETWORKS, "proximal": PROXIMAL}


@pytest.mark.parametrize(("where", "there"), [(one, other) for one in METHODS for other in METHODS if one != other])
def test_a_name_is_that_of_one_method(where, there, monkeypatch):
    """A meta network called STE would be trained, and its runs would pass as STE's."""
    monkeypatch.setitem(METHODS[there], "own", object)
    for name in ("own", next(iter(METHODS[there]))):
        with pytest.raises(ValueError, match=f"{name} is the name of a method in another registry"):
            METHODS[where][name] = object
        assert name not in METHODS[where]


def test_a_name_that_means_a_net_of_torchvisions_is_refused():
    with pytest.raises(ValueError, match="torchvision:mine is a name of torchvision's nets"):
        MODELS["torchvision:mine"] = object
    assert "torchvision:mine" not in MODELS
