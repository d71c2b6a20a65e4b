"""Small helpers by the notebook's names: running means, top-k accuracy, a progress line, layers by path."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utils.logs.progress import is_terminal, line_width


class AverageMeter:
    """The last value of a series and its running mean, weighted by n."""

    def __init__(self):
        self.reset()

    def reset(self) -> None:
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float, n: int = 1) -> None:
        """Adds a value that counts n times."""
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


@torch.no_grad()
def accuracy(output: Tensor, target: Tensor, topk: Iterable[int] = (1,)) -> list[Tensor]:
    """Top-k accuracies in percent, a scalar tensor for each k: output (B, classes), target (B,).

    With fewer than k classes, top-k counts all of them.
    """
    return [100 * count / len(target) for count in hits(output, target, topk)]


@torch.no_grad()
def hits(output: Tensor, target: Tensor, topk: Iterable[int] = (1,)) -> list[Tensor]:
    """How many of the targets are among the k largest outputs, a whole number () for each k; arguments as of `accuracy`."""
    topk = [min(k, output.shape[1]) for k in topk]
    best = output.topk(max(topk), dim=1).indices
    is_hit = best == target.unsqueeze(1)
    return [is_hit[:, :k].any(dim=1).sum() for k in topk]


def get_layer(net: nn.Module, path: Sequence[str]) -> nn.Module:
    """The layer at a path of `layer_name_list`. Raises AttributeError where the net has no such layer."""
    return net.get_submodule(".".join(path))


@contextmanager
def in_mode(net: nn.Module, training: bool) -> Iterator[None]:
    """Puts the net into training or eval mode, and afterwards each module back into its own: one may be in eval mode always."""
    modes = [(module, module.training) for module in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def progress_bar(
    current: int, total: int, message: str = "", elapsed: float = 0.0, file: TextIO | None = None, end: str = "\n"
) -> None:
    """Shows that step `current` (from 0) of `total` is done, after `elapsed` seconds: a bar redrawn in place on a terminal,
    a plain line elsewhere. file: standard error where None; end: follows the last step's bar.
    """
    file = sys.stderr if file is None else file
    done = current + 1
    if is_terminal(file):
        bar = tqdm.format_meter(
            done,
            total,
            elapsed,
            ncols=line_width(file),
            ascii=not (file.encoding or "").lower().startswith("utf"),
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} " + message.replace("{", "{{").replace("}", "}}"),
        )
        file.write(f"\r{bar}" + (end if done == total else ""))
    else:
        file.write(f"{done}/{total} {message}\n")
    file.flush()


def erase_bar() -> None:
    """Empties a terminal's line, for what is printed next."""
    if is_terminal(sys.stderr):
        sys.stderr.write(f"\r{' ' * line_width(sys.stderr)}\r")
        sys.stderr.flush()
