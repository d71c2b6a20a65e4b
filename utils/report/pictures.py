"""Drawing: curves per epoch with bands over trials, and the overview of a table, as figures; a figure as PNG and SVG."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter, SymmetricalLogLocator

from utils.errors import shortened
from utils.files.text import printable
from utils.report.layers import LayerTable
from utils.report.published import Printed, logged, logged_statistics
from utils.report.statistics import LAST, STANDARD_ERRORS
from utils.report.trials import Group, Trial
from utils.tables.cells import Cell

# Each colour has a contrast of at least 3 with a white and with a dark page.
COLOURS = {
    "full precision": "#9a62cf",
    "STE": "#7f7f7f",
    "FC-Grad": "#3b82c4",
    "MultiFC": "#cf6a1c",
    "LSTMFC": "#2e9460",
    "STE-identity": "#a0705a",
    "ApproxSign": "#c2468f",
    "EDE": "#0f8f9c",
    "ReSTE": "#94851e",
    "EWGS": "#6673e0",
    "BinaryRelax": "#d65a6e",
    "ProxQuant": "#5f8f2e",
}
ANOTHER = "#d0483a"  # of a method of one's own
OF_LOGS, OF_OURS = "#7f7f7f", "#d0483a"  # in the overview of a table, which has no lines of methods
SUFFIXES = (".png", ".svg")
STYLES = ("-", "--", "-.", ":")
MARKERS = ("", "o", "s", "^", "x")  # of further lines of a colour, once all styles are taken
LOSS, FLIPPED = "train_loss", "flipped"
MARKED = 12  # points of a line with a marker
LONGEST = 150  # characters of a label
MOST_LABELS = 60  # of a legend
MOST_NAMES, LONGEST_PRINTED_NAME = 60, 40  # of layers beside a map; characters
WHOLE_NUMBERS = partial(MaxNLocator, integer=True, steps=(1, 2, 5, 10), min_n_ticks=1)  # ticks of epochs
LARGEST = 1e38  # number that is drawn; the axes' arithmetic overflows beyond, and no float32 is larger


class Series(NamedTuple):
    """Trials of equal length, drawn as one line with a band; band_only: as the published logs are."""

    label: str  # see `plain`
    trials: Sequence[Trial]
    colour: str
    style: str = "-"
    band_only: bool = False
    marker: str = ""


def series_of(
    groups: Sequence[Group], logs: Sequence[Cell] = (), name: Callable[[Cell], str] = attrgetter("backward")
) -> list[Series]:
    """A line with a band per group, and a band per cell of `logs` that has logged trials.

    name: gives a cell's name in the legend. The first group of a method has the method's colour, and so have its logs; each
    further group has a colour that no other line of the picture has. Once all colours are taken, groups of a method differ in
    their line style, then in their markers.
    """
    bands = [
        Series(plain(f"{name(cell)}, published logs"), logged()[cell], _colour(cell), ":", True)
        for cell in logs
        if cell in logged()
    ]
    used: Counter[str] = Counter()
    labels = [(name(group.cell), group.label, f"n = {len(group.trials)}") for group in groups]
    taken = {*(band.colour for band in bands), *(_colour(group.cell) for group in groups)}
    free = [colour for colour in (*COLOURS.values(), ANOTHER) if colour not in taken]
    lines = []
    for group, label in zip(groups, distinct([", ".join(filter(None, parts)) for parts in labels]), strict=True):
        colour = _colour(group.cell)
        if used[colour] and free:
            colour = free.pop(0)
        marker, style = divmod(used[colour], len(STYLES))
        lines.append(Series(plain(label), group.trials, colour, STYLES[style], marker=MARKERS[marker % len(MARKERS)]))
        used[colour] += 1
    return [*bands, *lines]


def distinct(labels: Sequence[str]) -> list[str]:
    """The labels, long ones without their middle; where that makes several the same, they are numbered."""
    short = [shortened(label, LONGEST - len(" (1234)")) for label in labels]
    counts, met = Counter(short), Counter()
    for index, label in enumerate(short):
        if counts[label] > 1 and labels.count(labels[index]) < counts[label]:
            met[label] += 1
            short[index] = f"{label} ({met[label]})"
    return short


def plain(text: str) -> str:
    """A text that matplotlib draws as it is: no mathematics between $, no label that a legend leaves out; long ones shortened."""
    text = printable(shortened(text, LONGEST)).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _colour(cell: Cell) -> str:
    return COLOURS.get(cell.backward, ANOTHER)


class Panel(NamedTuple):
    """Curves per epoch in one pair of axes; curve: the attribute of a trial that is drawn."""

    title: str
    series: Sequence[Series]
    curve: str
    label: str


def loss_panel(title: str, series: Sequence[Series]) -> Panel:
    """The training loss, on a logarithmic axis."""
    return Panel(title, series, LOSS, "training loss")


def curve_panels(title: str, series: Sequence[Series]) -> tuple[Panel, Panel]:
    """Training loss and test accuracy of the same series."""
    return loss_panel(title, series), Panel(title, series, "test_acc", "test accuracy (%)")


def layer_panels(title: str, series: Sequence[Series]) -> list[Panel]:
    """The flips, and the cosine with STE's gradient of the same series, where there is any."""
    panels = [Panel(title, series, FLIPPED, "flipped weights (%)")]
    if any(np.isfinite(trial.cosine).any() for one in series for trial in one.trials):
        panels.append(Panel(title, series, "cosine", "cosine with STE's gradient"))
    return panels


def draw_curves(rows: Sequence[Sequence[Panel]], path: Path) -> None:
    """Draws rows of equally many panels, by `curves`, into <path>.png."""
    save(curves(rows), path, (".png",))


def curves(rows: Sequence[Sequence[Panel]]) -> Figure:
    """Rows of equally many panels.

    A line is the mean over trials, and its band reaches from the lowest to the highest trial. The published logs are a paler band
    with a dotted mean. Panels of a row that show the same series share a legend: below a single row, else beside the row.
    """
    columns = len(rows[0])
    figure = Figure(figsize=(5.5 * columns + 3 * (len(rows) > 1), 4.2 * len(rows)), layout="constrained")
    for row, row_axes in zip(rows, figure.subplots(len(rows), columns, squeeze=False), strict=True):
        for axes, panel in zip(row_axes, row, strict=True):
            for series in panel.series:
                _draw(axes, series, panel.curve)
            axes.set(xlabel="epoch", ylabel=panel.label, title=plain(panel.title))
            if panel.curve == LOSS:
                logarithmic(axes)
            if panel.curve == FLIPPED:
                logarithmic_from_zero(axes, [value for one in panel.series for trial in one.trials for value in trial.flipped])
            axes.xaxis.set_major_locator(WHOLE_NUMBERS())
            axes.grid(alpha=0.3)
        if any(panel.series != row[0].series for panel in row):
            for axes in row_axes:
                axes.legend(fontsize="small")
        elif len(rows) > 1:
            row_axes[-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.02, 1))
        else:
            _legend(figure)
    return figure


def logarithmic(axes: Axes) -> None:
    """Makes the y-axis logarithmic, with plain numbers at 1, 2 and 5 times powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def logarithmic_from_zero(axes: Axes, values: Iterable[float]) -> None:
    """Makes the y-axis logarithmic; where some value is 0, it is linear below the power of ten under the smallest other one."""
    known = [value for value in values if value == value]
    positive = [value for value in known if value > 0]
    if len(positive) == len(known):
        return logarithmic(axes)
    threshold = 10.0 ** math.floor(math.log10(min(positive, default=1.0)))
    axes.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    axes.set_ylim(-0.05 * threshold, None if positive else threshold)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=threshold, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return None


def _draw(axes: Axes, series: Series, curve: str) -> None:
    values = np.stack([getattr(trial, curve) for trial in series.trials])
    values = np.where(np.abs(values) <= LARGEST, values, np.nan)
    epochs = np.arange(1, values.shape[1] + 1)
    marker = series.marker or ("." if len(epochs) == 1 else None)  # a line through one point is invisible
    every = max(1, len(epochs) // MARKED)
    band, line = (0.18, 0.9) if series.band_only else (0.35, 1.6)
    labels = (series.label, None) if series.band_only and len(values) > 1 else (None, series.label)
    low, high = values.min(axis=0), values.max(axis=0)
    axes.fill_between(epochs, low, high, color=series.colour, alpha=band, linewidth=0, label=labels[0])
    points = {"marker": marker, "markersize": 4, "markevery": every}
    axes.plot(epochs, values.mean(axis=0), series.style, color=series.colour, linewidth=line, label=labels[1], **points)


class Row(NamedTuple):
    """A row of an overview: a cell, its printed value and our groups."""

    cell: Cell
    printed: Printed
    groups: Sequence[Group]


def overview(title: str, rows: Sequence[Row]) -> Figure:
    """Each cell's mean test accuracy of the last epochs, a panel per net: printed; logs and ours ± 2 standard errors."""
    nets = list(dict.fromkeys(row.cell.model for row in rows))
    figure = Figure(figsize=(4.6 * len(nets), 5.2), layout="constrained")
    for axes, net in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets, strict=True):
        shown = [row for row in rows if row.cell.model == net]
        for y, row in enumerate(shown):
            _draw_row(axes, y, row)
        names = [row.cell.method for row in shown]
        axes.set(yticks=range(len(shown)), yticklabels=names, xlabel=f"test accuracy, last {LAST} epochs (%)")
        axes.set_title(f"{title}: {net}, {shown[0].cell.dataset}", fontsize="medium")
        axes.tick_params(axis="y", labelsize="small")
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    _legend(figure)
    return figure


def _draw_row(axes: Axes, y: int, row: Row) -> None:
    logs = logged_statistics(row.cell)
    axes.plot(row.printed.mean, y, "x", color="black", label="printed")
    points = [(logs, -0.17, "o", OF_LOGS, "published logs")] if logs else []
    points += [(group.statistics, 0.17, "D", OF_OURS, "ours") for group in row.groups]
    for found, offset, marker, colour, label in points:
        error = STANDARD_ERRORS * found.standard_error if found.n > 1 else 0.0
        axes.errorbar(found.mean, y + offset, xerr=error, fmt=marker, color=colour, markersize=4, capsize=2, label=label)


def _legend(figure: Figure) -> None:
    """One legend for all panels, below them; the figure grows with its lines."""
    found = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = list(found)[:MOST_LABELS]
    width = 0.5 + 0.075 * max(map(len, labels), default=0)  # inches
    columns = max(1, min(len(labels), int(figure.get_figwidth() / width)))
    figure.set_figheight(figure.get_figheight() + 0.2 * (-(-len(labels) // columns) - 1))
    title = f"the first {len(labels)} of {len(found)}" if len(found) > len(labels) else None
    figure.legend([found[x] for x in labels], labels, loc="outside lower center", ncols=columns, fontsize="small", title=title)


def flip_map(title: str, table: LayerTable) -> Figure:
    """The percentage of each layer's weights that flipped in each epoch: a row per layer, the first on top."""
    flipped = 100 * table.columns[FLIPPED]
    layers = len(table.names)
    figure = Figure(figsize=(8.5, 1.6 + 0.17 * min(max(layers, 6), MOST_NAMES)), layout="constrained")
    axes = figure.subplots()
    edges = (table.first - 0.5, table.first + len(flipped) - 0.5, layers - 0.5, -0.5)
    norm = PowerNorm(0.5, vmin=0, vmax=max(np.nanmax(flipped, initial=0), 1e-3))
    image = axes.imshow(flipped.T, norm=norm, extent=edges, aspect="auto", interpolation="nearest")
    step = -(-layers // MOST_NAMES)
    names = [plain(shortened(name, LONGEST_PRINTED_NAME)) for name in table.names[::step]]
    axes.set(title=plain(title), xlabel="epoch", yticks=range(0, layers, step), yticklabels=names)
    axes.tick_params(axis="y", labelsize="x-small")
    axes.xaxis.set_major_locator(WHOLE_NUMBERS())
    figure.colorbar(image, ax=axes, label="flipped weights (%)").solids.set_rasterized(True)
    return figure


def save(figure: Figure, path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Writes the figure into <path> with each suffix. An SVG file keeps texts as texts; equal figures are equal files."""
    for suffix in suffixes:
        metadata = {"Date": None} if suffix == ".svg" else {}
        with rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
            figure.savefig(path.with_name(path.name + suffix), dpi=130, metadata=metadata)
        figure.set_layout_engine("none")  # computing the layout once is enough for all suffixes
