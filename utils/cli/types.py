"""Types of the command line's flags: each reads a text, and names what it accepts where the text is something else."""

import argparse
import math
import re
from collections.abc import Callable

from utils.choices import DATASETS, META_NETWORKS, NONLINEARITIES, methods
from utils.recorder import ADAPTIVE


def whole(low: int, high: float = math.inf) -> Callable[[str], int]:
    """A whole number from low to high."""
    span = f"from {low} to {high}" if high < math.inf else f"of at least {low}"

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d+", text) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"must be a whole number {span}, not {text!r}")
        return int(text)

    return parse


def real(above: float | None = None) -> Callable[[str], float]:
    """A finite number: of at least 0, or above `above`."""
    span = "of at least 0" if above is None else f"above {above:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < 0 or (above is not None and value <= above):
            raise argparse.ArgumentTypeError(f"must be a number {span}, not {text!r}")
        return value

    return parse


def interval(text: str) -> str:
    """A whole number of epochs, or of iterations with "it" behind it."""
    if not re.fullmatch(r"[1-9]\d*(it)?", text):
        raise argparse.ArgumentTypeError(f"must be a number of epochs such as 1, or of iterations such as 100it, not {text!r}")
    return text


def lr_adjust(text: str) -> int | str:
    """A whole number of epochs, or "adaptive"."""
    if text == ADAPTIVE:
        return text
    if not re.fullmatch(r"\d+", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of epochs of at least 1, or {ADAPTIVE!r}, not {text!r}")
    return int(text)


def nonlinearity(text: str) -> str | None:
    """A registered nonlinearity; "none" or "None" for none."""
    name = None if text.lower() == "none" else text
    if name not in (None, *NONLINEARITIES):
        raise argparse.ArgumentTypeError(f"must be one of none, {', '.join(NONLINEARITIES)}, not {text!r}")
    return name


def device(text: str) -> str:
    """auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"must be auto, cpu, cuda or cuda:N, not {text!r}")
    return text


def dataset(text: str) -> str:
    """A registered data set or NPZ:path."""
    if text not in DATASETS and not re.fullmatch(r"NPZ:.+", text):
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(sorted(DATASETS))} or NPZ:path, not {text!r}")
    return text


def method(text: str) -> str:
    """plain, STE, or a meta network with or without :relu or :tanh."""
    network, _, nonlinear = text.partition(":")
    takes = network in META_NETWORKS and "use_nonlinear" in META_NETWORKS.options(network)
    if network not in ("plain", *methods()) or (nonlinear and not (takes and nonlinear in NONLINEARITIES)):
        raise argparse.ArgumentTypeError(f"must be plain, {', '.join(methods())}, or such as MultiFC:tanh, not {text!r}")
    return text


def label(text: str) -> str:
    """A part of a folder name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(f"must be letters, digits, '.', '_' and '-', not beginning with a sign, not {text!r}")
    return text


def share(text: str) -> tuple[int, int]:
    """I/N, the I-th of N shares, I from 1 to N, as the pair (I, N)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"must be I/N, the I-th of N shares with I from 1 to N, not {text!r}")
    return int(match[1]), int(match[2])


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE as the pair (NAME, VALUE)."""
    name, equals, value = text.partition("=")
    if not (name and equals and value) or name.startswith("-"):
        raise argparse.ArgumentTypeError(
            f"must be NAME=VALUE with a flag's name without dashes, such as batch-size=64, not {text!r}"
        )
    return name.replace("_", "-"), value
