"""How a figure looks on paper, and how it becomes a file."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from flatscale.report.charts.palette import INK, MUTED, family_styles

COLUMN, PAGE = 3.4, 6.9
"""Widths in inches of one column and of both, as two-column proceedings have them."""

STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handletextpad": 0.3,
    "legend.columnspacing": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "lines.linewidth": 1.0,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


def new_figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A figure of a size in inches with its axes, row by row."""
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def to_pdf(figure: Figure) -> bytes:
    """The figure as a PDF that is the same for the same content, whenever it is made."""
    return _render(figure, "pdf", metadata={"CreationDate": None, "Producer": None})


def to_png(figure: Figure, *, dpi: int = 150) -> bytes:
    """The figure as pixels, to look at."""
    return _render(figure, "png", dpi=dpi)


def _render(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def shortened(name: str, limit: int = 26) -> str:
    """A name that fits beside an axis; a dollar sign in it does not begin mathematics."""
    return (name if len(name) <= limit else name[: limit - 1] + "…").replace("$", r"\$")


def family_legend(figure: Figure, families: Sequence[str], *, columns: int) -> None:
    """One entry a family below the figure; none where a single family needs no key."""
    if len(families) < 2:
        return
    styles = family_styles(families)
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=s.marker,
            color=s.colour,
            markersize=4,
            label=shortened(name),
        )
        for name, s in styles.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def log_scale(axis: XAxis | YAxis) -> None:
    """A logarithmic axis with plain numbers, enough of them to be read; call it after drawing."""
    set_scale = axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale
    set_scale("log")
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else math.inf
    named = (2, 3, 5, 7) if decades < 1 else (2, 5) if decades < 2 else ()

    def minor(value: float, _: int | None) -> str:
        leading = round(value / 10 ** math.floor(math.log10(value)))
        return f"{value:g}" if leading in named else ""

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(minor))


def label_rows(axis: Axes, names: Sequence[str], *, limit: int = 26) -> None:
    """Names down the left side, the first on top."""
    axis.set_yticks(range(len(names)), [shortened(name, limit) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
