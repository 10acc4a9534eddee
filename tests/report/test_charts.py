"""Every chart obeys Vega-Lite's schema, on a desk and on a phone; every figure is drawn."""

from __future__ import annotations

import itertools
from pathlib import Path

import altair as alt
import pytest
import vl_convert

from flatscale.report.charts import point_datasets
from flatscale.report.charts.palette import COLOURS, family_styles
from flatscale.report.content.content import Content
from flatscale.report.content.from_store import content_of_store
from flatscale.report.content.sections import sections_of
from flatscale.report.figures import FIGURES, paper_figures, to_pdf
from flatscale.store.results import Store

CHARTS = {
    "scatter",
    "levels",
    "forest",
    "left-out",
    "residuals",
    "matrix",
    "explorer",
    "bounds",
    "convergence",
    "trajectories",
}


@pytest.fixture(scope="module")
def content(full_store: Path) -> Content:
    return content_of_store(Store(full_store))


def test_every_chart_of_the_specification_is_there(content: Content) -> None:
    assert {chart.key for s in sections_of(content) for chart in s.charts} == CHARTS


def test_every_chart_obeys_the_schema(content: Content) -> None:
    for section in sections_of(content):
        for chart in section.charts:
            for spec in (chart.wide, chart.narrow):
                alt.Chart.from_dict(dict(spec), validate=True)
                assert vl_convert.vegalite_to_vega(dict(spec))["marks"], chart.key


def test_charts_name_only_data_that_stand_on_the_page(content: Content) -> None:
    known = set(point_datasets(content))

    def names(part: object) -> set[str]:
        if isinstance(part, dict):
            here = {part["data"]["name"]} if "name" in part.get("data", {}) else set()
            inline = set(part.get("datasets", {}))
            return (here | set().union(*map(names, part.values()))) - inline
        return set().union(*map(names, part)) if isinstance(part, list) else set()

    for section in sections_of(content):
        for chart in section.charts:
            assert names(dict(chart.wide)) <= known, chart.key


def test_every_figure_is_drawn_as_vectors(content: Content) -> None:
    figures = paper_figures(content)
    assert [figure.name for figure in figures] == list(FIGURES)
    for figure in figures:
        width, height = figure.figure.get_size_inches()
        assert width <= 6.9
        assert height <= 9
        body = to_pdf(figure.figure)
        assert body.startswith(b"%PDF")
        if figure.name not in ("matrix", "outcomes"):
            assert b"/Subtype /Image" not in body, figure.name


def test_fifty_six_families_look_different() -> None:
    styles = family_styles([f"family {i}" for i in range(56)])
    assert len({(s.colour, s.marker) for s in styles.values()}) == 56
    assert len({(s.colour, s.shape) for s in styles.values()}) == 56


def test_colours_stay_apart_without_red_green_vision() -> None:
    """CIELAB distance under Machado et al.'s (2009) full deuteranopia and protanopia."""
    deutan = ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969))
    protan = ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052))
    for matrix in (deutan, protan):
        seen = [_lab(matrix, colour) for colour in COLOURS]
        for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2):
            distance = sum((p - q) ** 2 for p, q in zip(a, b, strict=True)) ** 0.5
            # Half a dozen units are told apart side by side; markers differ besides.
            assert distance > 9, (COLOURS[i], COLOURS[j], distance)


def _lab(matrix: tuple[tuple[float, ...], ...], colour: str) -> tuple[float, float, float]:
    raw = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in raw]
    r, g, b = (
        min(1.0, max(0.0, sum(m * v for m, v in zip(row, linear, strict=True)))) for row in matrix
    )
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
