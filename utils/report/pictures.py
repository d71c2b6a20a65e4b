"""The report's pictures: curves per epoch with bands over trials, and an overview of a table; PNG and SVG."""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from utils.report.published import Printed, logged, logged_statistics
from utils.report.trials import LAST, Group, Trial
from utils.report.verdicts import STANDARD_ERRORS
from utils.tables.cells import Cell

COLOURS = {"STE": "#555555", "FC-Grad": "#1f5fa8", "MultiFC": "#c8641b", "LSTMFC": "#2e8b57", "full precision": "#6a3fa0"}
SUFFIXES = (".png", ".svg")
STYLES = ("-", "--", "-.", ":")
LOSS, ACCURACY = ("train_loss", "training loss"), ("test_acc", "test accuracy (%)")


class Series(NamedTuple):
    """What one line or band shows: trials of equal length, and how."""

    label: str
    trials: Sequence[Trial]
    colour: str
    style: str = "-"
    band_only: bool = False  # the published logs


def series_of(
    groups: Sequence[Group], logs: Sequence[Cell] = (), name: Callable[[Cell], str] = attrgetter("backward")
) -> list[Series]:
    """A line with band per group, and a band per cell of `logs` that has logged trials.

    name: what the legend calls a cell. A method keeps its colour; several groups of one method differ in the line.
    """
    bands = [
        Series(f"{name(cell)}, published logs", logged()[cell], _colour(cell), ":", True) for cell in logs if cell in logged()
    ]
    used: Counter[str] = Counter()
    lines = []
    for group in groups:
        colour = _colour(group.cell)
        label = ", ".join(part for part in (name(group.cell), group.label, f"n = {len(group.trials)}") if part)
        lines.append(Series(label, group.trials, colour, STYLES[used[colour] % len(STYLES)]))
        used[colour] += 1
    return [*bands, *lines]


def _colour(cell: Cell) -> str:
    return COLOURS.get(cell.backward, "#b23a2e")


def draw_curves(
    panels: Sequence[tuple[str, Sequence[Series], tuple[str, str]]], path: Path, suffixes: Sequence[str] = SUFFIXES
) -> None:
    """Panels side by side: (title, series, LOSS or ACCURACY) per epoch; <path> with each suffix.

    A line is the mean over trials, its band reaches from the lowest to the highest trial; the published logs are a paler band
    with a dotted mean.
    """
    figure = _figure((5.5 * len(panels), 4.2))
    for axes, (title, series, (curve, label)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for one in series:
            _draw(axes, one, curve)
        axes.set(xlabel="epoch", ylabel=label, title=title)
        if curve == LOSS[0]:
            logarithmic(axes)
        axes.grid(alpha=0.3)
    if all(series == panels[0][1] for _, series, _ in panels):
        _legend(figure)
    else:
        for axes in figure.axes:
            axes.legend(fontsize="small")
    _save(figure, path, suffixes)


def logarithmic(axes: Axes) -> None:
    """A logarithmic y-axis, with numbers as one says them at 1, 2 and 5."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw(axes: Axes, series: Series, curve: str) -> None:
    values = np.stack([getattr(trial, curve) for trial in series.trials])
    epochs = np.arange(1, values.shape[1] + 1)
    lonely = "." if len(epochs) == 1 else None  # a line of one point shows nothing
    band, line = (0.18, 0.9) if series.band_only else (0.35, 1.6)
    labels = (series.label, None) if series.band_only and len(values) > 1 else (None, series.label)
    low, high = values.min(axis=0), values.max(axis=0)
    axes.fill_between(epochs, low, high, color=series.colour, alpha=band, linewidth=0, label=labels[0])
    axes.plot(epochs, values.mean(axis=0), series.style, color=series.colour, linewidth=line, marker=lonely, label=labels[1])


class Row(NamedTuple):
    """A cell of an overview: what was printed, and our groups."""

    cell: Cell
    printed: Printed
    groups: Sequence[Group]


def draw_overview(title: str, rows: Sequence[Row], path: Path) -> None:
    """Mean test accuracy of the last epochs per cell, a panel per net: printed; logs and ours with 2 standard errors."""
    nets = list(dict.fromkeys(row.cell.model for row in rows))
    figure = _figure((4.6 * len(nets), 5.2))
    for axes, net in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets, strict=True):
        shown = [row for row in rows if row.cell.model == net]
        for y, row in enumerate(shown):
            _draw_row(axes, y, row)
        names = [" ".join(row.cell[2:]) for row in shown]
        axes.set(yticks=range(len(shown)), yticklabels=names, xlabel=f"test accuracy, last {LAST} epochs (%)")
        axes.set_title(f"{title}: {net}, {shown[0].cell.dataset}", fontsize="medium")
        axes.tick_params(axis="y", labelsize="small")
        axes.invert_yaxis()
        axes.grid(alpha=0.3)
    _legend(figure)
    _save(figure, path)


def _draw_row(axes: Axes, y: int, row: Row) -> None:
    logs = logged_statistics(row.cell)
    axes.plot(row.printed.mean, y, "x", color="black", label="printed")
    points = [(logs, -0.17, "o", "#888888", "published logs")] if logs else []
    points += [(group.statistics, 0.17, "D", "#b23a2e", "ours") for group in row.groups]
    for found, offset, marker, colour, label in points:
        error = STANDARD_ERRORS * found.standard_error if found.n > 1 else 0.0
        axes.errorbar(found.mean, y + offset, xerr=error, fmt=marker, color=colour, markersize=4, capsize=2, label=label)


def _figure(size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(figure: Figure) -> None:
    """One for all panels, below them."""
    handles = {label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    width = 0.5 + 0.075 * max(map(len, handles), default=0)  # inches
    columns = max(1, min(len(handles), int(figure.get_figwidth() / width)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize="small")


def _save(figure: Figure, path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    for suffix in suffixes:
        metadata = {"Date": None} if suffix == ".svg" else {}  # the same picture is the same file
        with rc_context({"svg.hashsalt": "report"}):
            figure.savefig(path.with_name(path.name + suffix), dpi=130, metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out once
