"""The interactive charts of the page, as Vega-Lite specifications without their data."""

from flatscale.report.charts.chart import Chart
from flatscale.report.charts.explorer import explorer_chart
from flatscale.report.charts.intervals import forest_chart, left_out_chart, levels_chart
from flatscale.report.charts.matrix import matrix_chart
from flatscale.report.charts.measured import bounds_chart, convergence_chart, trajectories_chart
from flatscale.report.charts.points import point_datasets
from flatscale.report.charts.residuals import residuals_chart
from flatscale.report.charts.scatter import linked_scatter

__all__ = [
    "Chart",
    "bounds_chart",
    "convergence_chart",
    "explorer_chart",
    "forest_chart",
    "left_out_chart",
    "levels_chart",
    "linked_scatter",
    "matrix_chart",
    "point_datasets",
    "residuals_chart",
    "trajectories_chart",
]
