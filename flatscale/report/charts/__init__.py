"""Figures, each declared once and drawn to the page and to the paper."""

from flatscale.report.charts.draw import (
    VEGA_LITE,
    Chart,
    PaperFigure,
    charts_of,
    datasets,
    paper_figures,
)
from flatscale.report.charts.register import FIGURES, Figure

__all__ = [
    "FIGURES",
    "VEGA_LITE",
    "Chart",
    "Figure",
    "PaperFigure",
    "charts_of",
    "datasets",
    "paper_figures",
]
