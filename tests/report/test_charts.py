"""Every figure obeys Vega-Lite's schema in each of its looks and is printed as vectors."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import altair as alt
import polars as pl
import pytest
import vl_convert

from flatscale.report.charts import frames
from flatscale.report.charts.colouring import axes_of, family_styles
from flatscale.report.charts.draw import PaperFigure, datasets, paper_figures, specification
from flatscale.report.charts.look import COLOURS, COLUMN, MIDDLE, NARROW, PAGE, WIDE
from flatscale.report.charts.register import FIGURES
from flatscale.report.charts.trajectories import trajectories_note
from flatscale.report.content.from_store import content_of_store
from flatscale.report.content.report_content import Content
from flatscale.report.content.section import Section, sections_of
from flatscale.report.render import vega_bundle
from flatscale.store.results import Store

CHARTS = {
    "scatter",
    "linked",
    "levels",
    "forest",
    "leave_one_out",
    "residuals",
    "specifications",
    "matrix",
    "explorer",
    "bounds",
    "convergence",
    "trajectories",
    "information_plane",
}
PRINTED = CHARTS - {"explorer", "linked"} | {"outcomes"}


@pytest.fixture(scope="module")
def content(full_store: Path) -> Content:
    return content_of_store(Store(full_store))


@pytest.fixture(scope="module")
def sections(content: Content) -> tuple[Section, ...]:
    return sections_of(content)


@pytest.fixture(scope="module")
def printed(content: Content) -> tuple[PaperFigure, ...]:
    return paper_figures(content)


def test_every_chart_of_the_specification_is_there(sections: tuple[Section, ...]) -> None:
    assert {chart.key for s in sections for chart in s.charts} == CHARTS


def test_every_figure_stands_in_a_section_of_the_page_or_in_the_paper(
    sections: tuple[Section, ...],
) -> None:
    keys = {section.key for section in sections}
    assert all(figure.section in keys for figure in FIGURES if figure.section is not None)
    assert all(figure.paper for figure in FIGURES if figure.section is None)


def assert_obeys_the_schema(spec: dict[str, Any]) -> None:
    # Of many panels the first has the scale and the legend, and all others are made alike.
    if len(spec.get("concat", ())) > 4:
        spec["concat"] = [spec["concat"][0], spec["concat"][-1]]
    alt.Chart.from_dict(spec, validate=True)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_obeys_the_schema_on_page_and_paper(figure, content: Content) -> None:
    for look in (WIDE if figure.section else None, figure.paper):
        if look is not None:
            spec = specification(figure, content, look)
            assert spec is not None
            assert_obeys_the_schema(dict(spec))
            assert vl_convert.vegalite_to_vega(dict(spec))["marks"]


@pytest.mark.parametrize("look", [MIDDLE, NARROW], ids=["middle", "narrow"])
@pytest.mark.parametrize("figure", [f for f in FIGURES if f.section], ids=lambda f: f.name)
def test_every_figure_is_drawn_on_narrower_pages(figure, look, content: Content) -> None:
    spec = specification(figure, content, look)
    assert spec is not None
    assert vl_convert.vegalite_to_vega(dict(spec))["marks"]


@pytest.mark.slow
@pytest.mark.parametrize("look", [MIDDLE, NARROW], ids=["middle", "narrow"])
@pytest.mark.parametrize("figure", [f for f in FIGURES if f.section], ids=lambda f: f.name)
def test_every_figure_obeys_the_schema_on_narrower_pages(figure, look, content: Content) -> None:
    assert_obeys_the_schema(dict(specification(figure, content, look) or {}))


def test_charts_name_only_data_that_stand_on_the_page(
    content: Content, sections: tuple[Section, ...]
) -> None:
    known = set(datasets(content))

    def names(part: object) -> set[str]:
        if isinstance(part, dict):
            here = {part["data"]["name"]} if "name" in part.get("data", {}) else set()
            inline = set(part.get("datasets", {}))
            return (here | set().union(*map(names, part.values()))) - inline
        return set().union(*map(names, part)) if isinstance(part, list) else set()

    for section in sections:
        for chart in section.charts:
            assert names(dict(chart.wide)) <= known, chart.key


def test_page_and_paper_say_the_same_of_a_figure(
    sections: tuple[Section, ...], printed: tuple[PaperFigure, ...]
) -> None:
    on_paper = {figure.name: figure for figure in printed}
    charts = {chart.key: chart for section in sections for chart in section.charts}
    for name in on_paper.keys() & charts.keys():
        assert charts[name].title == on_paper[name].title
        assert charts[name].caption.startswith(on_paper[name].caption)


def test_every_figure_is_printed_as_vectors_with_its_letters(
    printed: tuple[PaperFigure, ...],
) -> None:
    assert {figure.name for figure in printed} == PRINTED
    for figure in printed:
        root = ET.fromstring(figure.svg)
        assert float(root.attrib["width"]) <= PAGE.width
        assert float(root.attrib["height"]) <= 9 * 72
        assert figure.pdf.startswith(b"%PDF")
        assert b"/FontFile2" in figure.pdf or b"/FontFile3" in figure.pdf, figure.name
        assert re.search(rb"/BaseFont /[A-Z]{6}\+LiberationSans", figure.pdf), figure.name
        # The colour bar is the only thing that is not drawn by lines.
        if figure.name not in ("matrix", "outcomes"):
            assert b"/Subtype /Image" not in figure.pdf, figure.name


def test_the_same_content_gives_the_same_files(
    content: Content, printed: tuple[PaperFigure, ...]
) -> None:
    assert paper_figures(content) == printed


def test_the_legend_of_the_paper_names_every_family(
    content: Content, printed: tuple[PaperFigure, ...]
) -> None:
    scatter = next(figure for figure in printed if figure.name == "scatter")
    texts = "".join(ET.fromstring(scatter.svg).itertext())
    assert all(family[:20] in texts for family in content.shown_families)


def test_any_axis_of_the_design_colours_in_few_parts() -> None:
    assert frames.axis_parts(pl.Series([0.1, 0.01, None])) == ["0.1", "0.01", "(missing)"]
    assert frames.axis_parts(pl.Series(list("abcdefgh"))) == list("abcdefgh")
    words = frames.axis_parts(pl.Series([*"bbccddeeffgghh", "a", "z"]))
    assert words == [*"bbccddeeffgghh", frames.OTHERS, frames.OTHERS]
    numbers = [float(value) for value in range(100)]
    for value, part in zip(numbers, frames.axis_parts(pl.Series(numbers)), strict=True):
        low, high = map(float, part.split(" to "))
        assert low <= value <= high
    assert set(Counter(frames.axis_parts(pl.Series(numbers))).values()) <= {19, 20, 21}


def test_parts_are_listed_by_size_with_the_others_last(content: Content) -> None:
    assert frames.parts_in_order(content, "batch_size") == ["8", "32"]
    assert list(frames.axis_keys(content))[:2] == ["learning_rate", "batch_size"]
    assert "family" in frames.axis_keys(content)
    assert "optimizer" not in frames.axis_keys(content)


def test_fifty_six_families_look_different() -> None:
    styles = family_styles([f"family {i}" for i in range(56)])
    assert len(set(styles.values())) == 56


@pytest.mark.parametrize("names", [["a" * 40] * 7, ["ab"] * 28, [], ["one"]])
def test_a_legend_is_never_wider_than_its_figure(names: list[str]) -> None:
    columns = PAGE.legend_columns(names)
    widest = [max((min(len(n), 26) for n in names[i::columns]), default=0) for i in range(columns)]
    assert columns >= 1
    assert sum(widest) * 0.5 * PAGE.letters <= PAGE.width


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for the bundling, which takes a second; lists each time it was asked."""
    asked: list[str] = []

    def bundle(snippet: str, vl_version: str) -> str:
        asked.append(vl_version)
        return f"let a = '</script>'; {snippet}"

    monkeypatch.setattr(vega_bundle.vl_convert, "javascript_bundle", bundle)
    return asked


def fresh() -> str:
    vega_bundle.vega_bundle.cache_clear()
    try:
        return vega_bundle.vega_bundle()
    finally:
        vega_bundle.vega_bundle.cache_clear()


def test_the_bundle_is_made_once_and_kept(
    bundled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = fresh()
    assert "</script" not in first
    assert fresh() == first
    assert len(bundled) == 1


def test_a_damaged_bundle_is_made_anew(
    bundled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = fresh()
    (kept,) = (tmp_path / "flatscale").iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])
    assert fresh() == first
    assert fresh() == first
    assert len(bundled) == 2


def test_the_bundle_needs_no_cache(
    bundled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fresh() == fresh()
    assert len(bundled) == 2


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


def test_the_first_axis_colours_and_every_axis_can(content: Content) -> None:
    axes = axes_of(content)
    assert next(iter(axes)) == "family"
    assert {"learning_rate", "batch_size"} < set(axes)
    one = replace(content, rows=content.rows.filter(pl.col("family") == "mlp"))
    assert next(iter(axes_of(one))) == "learning_rate"
    figure = next(figure for figure in FIGURES if figure.name == "scatter")
    for shown, start in ((content, "family"), (one, "learning_rate")):
        spec = specification(figure, shown, WIDE) or {}
        (choice,) = (p for p in spec["params"] if p["name"] == "colour")
        assert choice["bind"]["labels"][0] == start
        assert [axis["name"] for axis in spec["usermeta"]["facets"]] == choice["bind"]["labels"]
        assert not (specification(figure, shown, COLUMN) or {}).get("params")
    text = vl_convert.vegalite_to_svg(_with_data(specification(figure, one, COLUMN), one))
    assert "learning_rate" in text
    assert all(f">{part}<" in text for part in axes_of(one)["learning_rate"].parts)


def test_a_line_is_marked_where_its_network_first_knows_its_points(content: Content) -> None:
    labels = content.trajectories["label"].unique(maintain_order=True)
    steps = content.trajectories["step"].unique().sort()
    moments = pl.DataFrame({"label": labels[:2], "step": [steps[1], steps[1] + 1]})
    drawn = frames.trajectories(replace(content, interpolated=moments)).filter("interpolated")
    found = dict(drawn.select("label", "step").unique().iter_rows())
    assert found == {labels[0]: steps[1], labels[1]: steps[2]}
    assert drawn.height == 2 * content.trajectories["metric"].n_unique()


def test_many_lines_are_thinned_evenly_and_the_caption_says_so(
    content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "MAX_LINES", 10)
    drawn = frames.trajectories(content)
    counts = drawn.select("label", "family").unique()["family"].value_counts()["count"]
    assert set(counts) == {2}
    assert f"Drawn are 10 of {content.rows.height} networks" in trajectories_note(content)
    names = frames.shown_metrics(content)[0]
    assert set(names) == set(content.trajectories["metric"])
    assert names[:3] == ("train_loss", *content.primary)


def _with_data(spec: dict | None, content: Content) -> dict:
    return {**(spec or {}), "datasets": datasets(content)}
