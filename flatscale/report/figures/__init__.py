"""The figures of a paper: vector graphics at the size they are printed."""

from flatscale.report.figures.every import FIGURES, PaperFigure, paper_figures
from flatscale.report.figures.style import to_pdf, to_png

__all__ = ["FIGURES", "PaperFigure", "paper_figures", "to_pdf", "to_png"]
