"""The report's pictures: which ones there are, and what each one shows.

A new picture is one more Picture in a list here: its file's name, its caption, and a function without arguments that returns a
matplotlib figure. Only that function may import matplotlib, by `drawing`: a report without files does without it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from utils.report.document import Picture
from utils.report.published import Printed, printed
from utils.report.statistics import LAST
from utils.report.tables import LEFT_OUT, curves_name, method
from utils.report.trials import Group, LeftOut, Trial
from utils.report.verdicts import STANDARD_ERRORS
from utils.tables.cells import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_3 = ("ResNet20", "CIFAR10", "dorefa")  # the paper's Figure 3 has a panel for SGD and one for Adam
CURVES_NOTE = (
    "Per epoch: a line is the mean over trials, and its band reaches from the lowest to the highest trial. A paler band with a "
    "dotted mean shows the published logs."
)

MOST_MAPS = 8
FLIPS_NOTE = (
    "From the layers.csv of the runs that have one. A weight flips in an epoch where its quantized value (at 1 bit its sign) is "
    "another one at the epoch's end than at the end of the epoch before. A line is the mean over trials of the share of all "
    "quantized weights that flip, and of the cosine between a layer's gradient g_W and the one that STE makes of the same "
    "g_W_hat, weighted by the layers' numbers of weights; STE itself has no cosine. The maps show the first trial of each "
    f"method, of {MOST_MAPS} at most."
)

Published = Mapping[Cell, Sequence[Group]]  # our groups of the published cells


def overviews(number: int, published: Published) -> list[Picture]:
    """The overview of a paper's table, over all its nets."""
    cells = {cell: value for cell, value in printed().items() if value.table == number}
    caption = (
        f"Table {number}: test accuracy of the last {LAST} epochs in percent, as printed, of the published logs and of our runs; "
        f"the bars are ± {STANDARD_ERRORS} standard errors of the mean over trials."
    )
    return [Picture(f"table{number}", caption, partial(_overview, f"Table {number}", cells, published))]


def curves(published: Published, others: Sequence[Group], left_out: Sequence[LeftOut]) -> list[Picture]:
    """Figure 3, the curves of each published net, quantizer and optimizer, those of all other cells, and of runs in no mean."""
    found = []
    if any(cell[:3] == FIGURE_3 for cell in published):
        caption = f"As Figure 3 of the paper: training loss of {' '.join(FIGURE_3)}, with SGD and with Adam."
        found.append(Picture("figure3", caption, partial(_figure_3, published)))
    for block, cell in {cell.block: cell for cell in published}.items():
        caption = f"{' '.join(block)}: training loss and test accuracy."
        found.append(Picture(curves_name(cell), caption, partial(_curves, " ".join(block), *_of_block(published, *block))))
    if others:
        caption = "Training loss and test accuracy of the cells that the paper does not have."
        found.append(Picture(curves_name(others[0].cell), caption, partial(_curves, "", others, names=_names(others))))
    unfinished = [left.trial for left in left_out if left.trial.epochs and not left.repeated]
    if alone := [Group(trial.cell, f"trial {trial.number}", (trial,)) for trial in unfinished]:
        caption = "Training loss and test accuracy of the runs that are in no mean, each by itself."
        found.append(Picture(LEFT_OUT, caption, partial(_curves, "", alone, names=_names(alone))))
    return found


def flips(published: Published, others: Sequence[Group], left_out: Sequence[LeftOut]) -> list[Picture]:
    """Of the runs that have a layers.csv: the flips and the cosine of the blocks and cells as in `curves`; maps of some runs."""
    alone = [Group(left.trial.cell, f"trial {left.trial.number}", (left.trial,)) for left in left_out if not left.repeated]
    blocks = {cell.block: cell for cell in published}
    parts = {
        **{f"flips_{'_'.join(block)}": _of_block(published, *block)[0] for block in blocks},
        "flips": others,
        f"flips_{LEFT_OUT}": alone,
    }
    whose = {"flips": "The cells that the paper does not have", f"flips_{LEFT_OUT}": "The runs that are in no mean"}
    found, groups = [], []
    for name, part in parts.items():
        if known := [group for group in map(_with_layers, part) if group.trials]:
            title = "" if name in whose else " ".join(known[0].cell.block)
            caption = f"{whose.get(name, title)}: weights that flipped in each epoch, and cosine between the gradient and STE's."
            found.append(Picture(name, caption, partial(_flips, title, known, _names(known) if name in whose else None)))
            groups += known
    for number, group in enumerate(groups[:MOST_MAPS], start=1):
        trial = group.trials[0]
        title = f"{_full_name(trial.cell)}{f' ({group.label})' if group.label else ''}, trial {trial.number}"
        caption = f"{title}: weights of each layer that flipped in each epoch, in percent."
        found.append(Picture(f"flip_map_{number}", caption, partial(_flip_map, title, trial)))
    return found


def _with_layers(group: Group) -> Group:
    return replace(group, trials=tuple(trial for trial in group.trials if trial.layers))


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


def _flips(title: str, groups: Sequence[Group], names: Callable[[Cell], str] | None) -> "Figure":
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


def _names(groups: Sequence[Group]) -> Callable[[Cell], str]:
    """What a legend calls a cell: net and data set are named where the groups have several."""
    return _full_name if len({group.cell[:2] for group in groups}) > 1 else method


def _full_name(cell: Cell) -> str:
    return f"{cell.model} {cell.dataset} {method(cell)}"
