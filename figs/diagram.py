"""Boxes, arrows and labels on a canvas in inches: what the method diagrams are drawn with."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

FORWARD, BACKWARD, META = "#1f5fa8", "#b23a2e", "#6a3fa0"


class Diagram:
    """A drawing of width x height inches; positions are inches from the lower left corner."""

    def __init__(self, width: float, height: float):
        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")
        self.boxes: dict[str, FancyBboxPatch] = {}
        self.centres: dict[str, tuple[float, float]] = {}
        self.width, self.height = width, height

    def title(self, text: str) -> None:
        """A headline at the top."""
        self.axes.text(self.width / 2, self.height - 0.3, text, ha="center", va="center", fontsize=17, weight="bold")

    def panel(self, corner_and_size: tuple[float, float, float, float], label: str) -> None:
        """A shaded region with a label at its top."""
        x, y, width, height = corner_and_size
        patch = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.15", fc="#f6f6f2", ec="#cccccc", zorder=0
        )
        self.axes.add_patch(patch)
        self.axes.text(x + width / 2, y + height - 0.25, label, ha="center", va="center", fontsize=13, color="#555555")

    def box(self, name, centre, symbol, caption, width=1.7, height=0.95, colour="#ffffff") -> None:
        """A named box with a symbol and a small caption under it."""
        x, y = centre
        style = "round,pad=0,rounding_size=0.12"
        patch = FancyBboxPatch(
            (x - width / 2, y - height / 2), width, height, boxstyle=style, fc=colour, ec="#333333", lw=1.4, zorder=2
        )
        self.axes.add_patch(patch)
        self.boxes[name], self.centres[name] = patch, centre
        lift = 0.14 if caption else 0.0
        self.axes.text(x, y + lift, symbol, ha="center", va="center", fontsize=16, zorder=3)
        self.axes.text(x, y - 0.27, caption, ha="center", va="center", fontsize=10, color="#555555", zorder=3)

    def arrow(self, start, end, label, colour, broken=False) -> None:
        """From box to box; broken: dashed, crossed out."""
        (x0, y0), (x1, y1) = self.centres[start], self.centres[end]
        patch = FancyArrowPatch(
            (x0, y0),
            (x1, y1),
            patchA=self.boxes[start],
            patchB=self.boxes[end],
            arrowstyle="-|>",
            mutation_scale=20,
            shrinkA=3,
            shrinkB=3,
            lw=2,
            color="#aaaaaa" if broken else colour,
            linestyle="dashed" if broken else "solid",
            zorder=1,
        )
        self.axes.add_patch(patch)
        vertical = abs(x1 - x0) < 0.1
        at = ((x0 + x1) / 2 + (0.15 if vertical else 0), (y0 + y1) / 2 + (0 if vertical else 0.22))
        self.axes.text(
            *at, label, ha="left" if vertical else "center", va="center", fontsize=12, color="#777777" if broken else colour
        )
        if broken:
            self.axes.text((x0 + x1) / 2, (y0 + y1) / 2, "✕", ha="center", va="center", fontsize=18, color="#777777")

    def curve(self, points: list[tuple[float, float]], colour: str) -> None:
        """A dashed arrow along a cubic Bezier curve."""
        path = Curve(points, [Curve.MOVETO, *[Curve.CURVE4] * 3])
        self.axes.add_patch(PathPatch(path, fc="none", ec=colour, lw=2, linestyle="dashed", zorder=1))
        head = FancyArrowPatch(points[2], points[3], arrowstyle="-|>", mutation_scale=20, lw=0, color=colour, zorder=1)
        self.axes.add_patch(head)

    def text(self, at: tuple[float, float], text: str, colour: str) -> None:
        """A coloured text in italics, centred at a point."""
        self.axes.text(*at, text, ha="center", va="center", fontsize=13, color=colour, style="italic")

    def note(self, at: tuple[float, float], text: str) -> None:
        """A plain text, centred at a point."""
        self.axes.text(*at, text, ha="center", va="center", fontsize=12.5, color="#333333")

    def save(self, path: Path) -> None:
        """Writes the diagram as a PNG file."""
        self.figure.savefig(path, dpi=150, facecolor="white")
