"""The report's pictures: which ones there are, and what each one shows.

A new picture is one more Picture in a list here: its file's name, its caption, and a function without arguments that returns a
matplotlib figure. Only that function may import matplotlib, by `drawing`: a report without files does without it.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from utils.files.text import counted
from utils.report.anchors import LEFT_OUT, block_key, net_key
from utils.report.document import Picture
from utils.report.published import Printed, printed
from utils.report.statistics import LAST, STANDARD_ERRORS
from utils.report.trials import Group, LeftOut, Trial
from utils.tables.cells import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_3 = ("ResNet20", "CIFAR10", "dorefa")  # the paper's Figure 3 has a panel for SGD and one for Adam
CURVES_NOTE = (
    "Per epoch: a line is the mean over trials, and its band reaches from the lowest to the highest trial. A paler band with a "
    "dotted mean shows the published logs."
)

METHOD = attrgetter("method")  # a cell's, as a line's name
MOST_MAPS = 8
MOST_LINES = 10  # of a picture
MOST_DRAWN = 60  # cells of a net
FLIPS_NOTE = (
    "From the layers.csv of the runs that have one. A weight flips in an epoch if its quantized value (at 1 bit its sign) at the "
    "epoch's end differs from that at the end of the epoch before. A line is the mean over trials of the share of all "
    "quantized weights that flip, and of the cosine between a layer's gradient g_W and the one that STE computes from the same "
    "g_W_hat, weighted by the layers' numbers of weights; STE itself has no cosine. If nothing flips in an epoch, the axis "
    "reaches down to 0 and is linear below its smallest power of ten. A map shows the first trial of a method."
)

Published = Mapping[Cell, Sequence[Group]]  # our groups of the published cells, with as many epochs as the published runs


def overviews(number: int, published: Published) -> list[Picture]:
    """The overview of a paper's table, over all its nets."""
    cells = {cell: value for cell, value in printed().items() if value.table == number}
    caption = (
        f"Table {number}: test accuracy of the last {LAST} epochs in percent, as printed, of the published logs and of our runs; "
        f"the bars are ± {STANDARD_ERRORS} standard errors of the mean over trials."
    )
    return [Picture(f"table{number}", caption, partial(_overview, f"Table {number}", cells, published))]


def curves(published: Published, others: Sequence[Group], left_out: Sequence[LeftOut]) -> list[Picture]:
    """Figure 3, the curves of each published net, quantizer and optimizer, and by net of all others and of runs in no mean."""
    found = []
    if any(cell[:3] == FIGURE_3 for cell in published):
        caption = f"As Figure 3 of the paper: training loss of {' '.join(FIGURE_3)}, with SGD and with Adam."
        found.append(Picture("figure3", caption, partial(_figure_3, published)))
    for block, cell in {cell.block: cell for cell in published}.items():
        caption = f"{' '.join(block)}: training loss and test accuracy."
        found.append(Picture(block_key(cell), caption, partial(_curves, " ".join(block), *_of_block(published, *block))))
    for part in _parts(others, "curves"):
        caption = f"{part.title}: training loss and test accuracy of runs that the paper's tables do not have{part.remark}."
        found.append(Picture(part.name, caption, partial(_curves, part.title, part.groups, names=METHOD), part.key))
    for part in _parts(_each_alone(left for left in left_out if left.trial.epochs), LEFT_OUT):
        caption = f"{part.title}: training loss and test accuracy of the runs that are not averaged, each by itself{part.remark}."
        found.append(Picture(part.name, caption, partial(_curves, part.title, part.groups, names=METHOD), part.key))
    return found


def flips(published: Published, others: Sequence[Group], left_out: Sequence[LeftOut]) -> list[Picture]:
    """Of the runs that have a layers.csv: the flips and the cosine of the blocks and nets as in `curves`; maps of some runs."""
    known = _with_layers([group for cell in printed() for group in published.get(cell, ())])
    blocks = {group.cell.block: [one for one in known if one.cell.block == group.cell.block] for group in known}
    more, alone = _with_layers(others), _with_layers(_each_alone(left_out))
    found = []
    for block, groups in blocks.items():
        name, title = f"flips_{'_'.join(block)}", " ".join(block)
        found.append(Picture(name, f"{title}: {_shown_of_layers(groups)}.", partial(_flips, title, groups)))
    for part in [*_parts(more, "flips"), *_parts(alone, f"flips_{LEFT_OUT}")]:
        whose = " of the runs that are not averaged" if part.name.startswith(f"flips_{LEFT_OUT}") else ""
        caption = f"{part.title}: {_shown_of_layers(part.groups)}{whose}{part.remark}."
        found.append(Picture(part.name, caption, partial(_flips, part.title, part.groups, METHOD), part.key))
    return found + _maps([*known, *more, *alone])


def _maps(groups: Sequence[Group]) -> list[Picture]:
    """Maps of the methods whose weights flip, of those that flip most if there are many; the first says how many have none."""
    flipping = [group for group in groups if _most_flipped(group) > 0]
    most = sorted(flipping, key=_most_flipped, reverse=True)[:MOST_MAPS]
    found = []
    for number, group in enumerate([group for group in flipping if group in most], start=1):
        trial = group.trials[0]
        title = f"{group}, trial {trial.number}"
        caption = f"{title}: weights of each layer that flipped in each epoch, in percent."
        found.append(Picture(f"flip_map_{number}", caption, partial(_flip_map, title, trial)))
    without = [
        f"{counted(len(flipping) - len(most), 'method')} whose weights flip less" * (len(flipping) > len(most)),
        f"{counted(len(groups) - len(flipping), 'method')} whose weights do not flip at all" * (len(groups) > len(flipping)),
    ]
    if found and any(without):
        found[0] = replace(found[0], caption=f"{found[0].caption} Without a map: {' and '.join(filter(None, without))}.")
    return found


def _most_flipped(group: Group) -> float:
    """The largest share of all weights that flips in an epoch of the first trial."""
    return float(np.nanmax(group.trials[0].flipped, initial=0))


def _shown_of_layers(groups: Sequence[Group]) -> str:
    cosine = any(np.isfinite(trial.cosine).any() for group in groups for trial in group.trials)
    return "weights that flipped in each epoch" + (", and cosine between the gradient and STE's" if cosine else "")


class Part(NamedTuple):
    """Groups of one net that share a picture.

    key: by which tables link to it, "" of all but a net's first. remark: which part of several it is, and how many are not drawn.
    """

    name: str
    key: str
    title: str
    groups: list[Group]
    remark: str


def _parts(groups: Iterable[Group], kind: str) -> list[Part]:
    """Pictures of groups: a net's share one, or several of MOST_LINES at most, with similar methods together."""
    nets = defaultdict(list)
    for group in groups:
        nets[group.cell[:2]].append(group)
    found = []
    for net, members in nets.items():
        drawn = sorted(members, key=lambda group: (group.cell[2:], group.label))[:MOST_DRAWN]
        count = -(-len(drawn) // MOST_LINES)
        size = -(-len(drawn) // count)
        for number in range(count):
            remark = f", part {number + 1} of {count}" if count > 1 else ""
            remark += f"; {len(members) - len(drawn)} more are not drawn" if len(members) > len(drawn) else ""
            name = f"{kind}_{len(found) + 1}" if found else kind
            key = "" if number else net_key(kind, members[0].cell)
            found.append(Part(name, key, " ".join(net), drawn[number * size : (number + 1) * size], remark))
    return found


def _each_alone(left_out: Iterable[LeftOut]) -> list[Group]:
    unfinished = [left for left in left_out if not left.repeated]
    labels = [", ".join(filter(None, (left.label, f"trial {left.trial.number}"))) for left in unfinished]
    return [Group(left.trial.cell, label, (left.trial,)) for left, label in zip(unfinished, labels, strict=True)]


def _with_layers(groups: Iterable[Group]) -> list[Group]:
    """The groups that have trials with a layers.csv, with these."""
    found = [replace(group, trials=tuple(trial for trial in group.trials if trial.layers)) for group in groups]
    return [group for group in found if group.trials]


def drawing() -> ModuleType:
    """The module pictures.py. matplotlib is not imported where MPLBACKEND names what is not installed; here Agg draws."""
    os.environ.pop("MPLBACKEND", None)
    from utils.report import pictures

    return pictures


def _overview(title: str, cells: Mapping[Cell, Printed], published: Published) -> "Figure":
    draw = drawing()
    return draw.overview(title, [draw.Row(cell, value, published.get(cell, ())) for cell, value in cells.items()])


def _curves(
    title: str, groups: Sequence[Group], logs: Sequence[Cell] = (), names: Callable[[Cell], str] | None = None
) -> "Figure":
    draw = drawing()
    return draw.curves([draw.curve_panels(title, draw.series_of(groups, logs, **({"name": names} if names else {})))])


def _flips(title: str, groups: Sequence[Group], names: Callable[[Cell], str] | None = None) -> "Figure":
    draw = drawing()
    return draw.curves([draw.layer_panels(title, draw.series_of(groups, **({"name": names} if names else {})))])


def _flip_map(title: str, trial: Trial) -> "Figure":
    return drawing().flip_map(title, trial.layers)


def _figure_3(published: Published) -> "Figure":
    draw = drawing()
    blocks = {optimizer: _of_block(published, *FIGURE_3, optimizer) for optimizer in ("SGD", "Adam")}
    panels = [draw.loss_panel(f"{' '.join(FIGURE_3)} {optimizer}", draw.series_of(*block)) for optimizer, block in blocks.items()]
    return draw.curves([panels])


def _of_block(published: Published, *block: str) -> tuple[list[Group], list[Cell]]:
    """Our groups and the published cells of a net, data set, quantizer and optimizer."""
    cells = [cell for cell in printed() if cell.block == block]
    return [group for cell in cells for group in published.get(cell, ())], cells
