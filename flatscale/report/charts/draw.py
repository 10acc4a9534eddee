"""From a declared figure to Vega-Lite for the page, and to SVG and PDF for the paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import vl_convert
from altair.utils import schemapi

from flatscale.report.charts.frames import FRAMES, as_records
from flatscale.report.charts.look import MIDDLE, NARROW, WIDE, Look, theme
from flatscale.report.charts.register import FIGURES, Figure
from flatscale.report.content.report_content import Content

VEGA_LITE = "6.4"
"""The version that draws page and paper alike."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure of the page.

    Attributes:
        key: its anchor.
        title, caption: what it shows and how to read it.
        wide, middle, narrow: Vega-Lite for a desk, for half of it and for a phone; their data are
            named and stand on the page once.
    """

    key: str
    title: str
    caption: str
    wide: Mapping[str, Any]
    middle: Mapping[str, Any]
    narrow: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """A figure of the paper, as vectors at the size it is printed."""

    name: str
    title: str
    caption: str
    svg: bytes
    pdf: bytes


def charts_of(content: Content, section: str) -> tuple[Chart, ...]:
    """The page's figures of one chapter for which the content has something."""
    charts = []
    for figure in FIGURES:
        if figure.section != section:
            continue
        looks = [specification(figure, content, look) for look in (WIDE, MIDDLE, NARROW)]
        wide, middle, narrow = (spec or {} for spec in looks)
        if not (wide and middle and narrow):
            continue
        extra = figure.note(content) + figure.page_note(content) + figure.on_page
        charts.append(
            Chart(
                key=figure.name,
                title=figure.title_of(content),
                caption=figure.caption + extra,
                wide=wide,
                middle=middle,
                narrow=narrow,
            )
        )
    return tuple(charts)


def paper_figures(content: Content) -> tuple[PaperFigure, ...]:
    """Every figure of the paper for which the content has something."""
    drawn = []
    for figure in FIGURES:
        spec = None if figure.paper is None else specification(figure, content, figure.paper)
        if spec is None or figure.paper is None:
            continue
        named = {name: as_records(FRAMES[name](content)) for name in _data_of(spec)}
        svg = _svg({**spec, "datasets": {**spec.get("datasets", {}), **named}}, figure.paper.width)
        drawn.append(
            PaperFigure(
                name=figure.name,
                title=figure.title_of(content),
                caption=figure.caption + figure.note(content),
                svg=svg.encode(),
                pdf=_pdf(svg),
            )
        )
    return tuple(drawn)


def load_vega() -> None:
    """Start Vega and read the fonts now, half a second, instead of with the first figure."""
    letter = {"data": {"values": [{}]}, "mark": {"type": "text", "text": "a"}}
    _pdf(_svg(letter, WIDE.width))


def datasets(content: Content) -> dict[str, list[dict[str, Any]]]:
    """Every data set that the charts name, as lists of objects."""
    return {name: as_records(frame(content)) for name, frame in FRAMES.items()}


def specification(figure: Figure, content: Content, look: Look) -> dict[str, Any] | None:
    """Vega-Lite of a figure with its look and without its data; None if there is none to draw.

    It is not validated against Vega-Lite's schema here, which takes seconds a report; the tests do.
    """
    if content.analysis is None:
        return None
    frame = FRAMES[figure.data](content)
    if frame.is_empty():
        return None
    with schemapi.debug_mode(False):
        chart = figure.draw(content, frame, look)
        spec: dict[str, Any] = {} if chart is None else chart.to_dict(validate=False)
    spec.pop("$schema", None)
    # The page's script scales panels that stand side by side from this width to the container's.
    own = {"config": theme(look), "usermeta": {"width": look.width, **spec.pop("usermeta", {})}}
    return {**spec, **own} if spec else None


def _data_of(spec: Any) -> set[str]:
    """Names of the data sets that a specification draws and does not bring with it."""
    if isinstance(spec, list):
        return set().union(*map(_data_of, spec))
    if not isinstance(spec, dict):
        return set()
    data = spec.get("data")
    name = {data["name"]} if isinstance(data, dict) and "name" in data else set()
    inside = set().union(*map(_data_of, spec.values()))
    return (name | inside) & FRAMES.keys()


def _svg(spec: Mapping[str, Any], width: float) -> str:
    """The figure no wider than its place: panels side by side may come out a few percent wider."""
    svg = vl_convert.vegalite_to_svg(dict(spec), vl_version=VEGA_LITE)
    # Vega counts gradients over all figures it drew; the same figure shall give the same file.
    drawn = re.compile(r'((?:id="|url\(#)gradient_)(\d+)')
    number = {old: new for new, old in enumerate(dict.fromkeys(n for _, n in drawn.findall(svg)))}
    svg = drawn.sub(lambda found: f"{found[1]}{number[found[2]]}", svg)
    size = re.search(r'width="([\d.]+)" height="([\d.]+)"', svg)
    if size is None or float(size[1]) <= width:
        return svg
    height = float(size[2]) * width / float(size[1])
    return svg.replace(size[0], f'width="{width:g}" height="{height:g}"', 1)


def _pdf(svg: str) -> bytes:
    """The figure with its letters inside, the same bytes for the same figure."""
    pdf: bytes = vl_convert.svg_to_pdf(svg)
    # The names in a dictionary of resources come in an order of chance; sorted, no offset moves.
    entries = re.compile(rb"(?:^ +/\w+ \d+ 0 R\n){2,}", re.MULTILINE)
    return entries.sub(lambda run: b"".join(sorted(run[0].splitlines(keepends=True))), pdf)
