"""The interactive charts of the page, as Vega-Lite specifications without their data."""

from flatscale.report.charts.chart import Chart
from flatscale.report.charts.points import point_datasets
from flatscale.report.charts.scatter import linked_scatter

__all__ = ["Chart", "linked_scatter", "point_datasets"]
