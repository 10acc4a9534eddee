"""The page: one HTML file that needs nothing else."""

from __future__ import annotations

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from flatscale.report.charts.draw import datasets
from flatscale.report.content.report_content import Content
from flatscale.report.content.section import Section
from flatscale.report.render.vega_bundle import vega_bundle
from flatscale.report.words.summary import meta_of, summary_of


def render_page(content: Content, sections: tuple[Section, ...]) -> str:
    """The report as HTML with everything inside: style, script, data, Vega.

    Whatever comes from outside (names of families, columns, reasons) is escaped as text in the
    markup and as JSON in the scripts; a content policy in the page forbids every request.
    """
    charts = [chart for section in sections for chart in section.charts if chart is not None]
    specs = {c.key: {"wide": c.wide, "middle": c.middle, "narrow": c.narrow} for c in charts}
    template = _environment().get_template("report.html.j2")
    return template.render(
        content=content,
        sections=sections,
        summary=summary_of(content),
        meta=meta_of(content),
        css=Markup(_asset("report.css")),
        script=Markup(_asset("report.js")),
        vega=Markup(vega_bundle()) if charts else "",
        chart_data=_json(datasets(content) if charts else {}),
        chart_specs=_json(specs),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("flatscale.report.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda r: f"{50 + 50 * max(-1.0, min(1.0, r)):.2f}%"
    # A long name may break behind its underscores.
    environment.filters["breakable"] = lambda text: escape(text).replace("_", Markup("_<wbr>"))
    return environment


def _json(content: Any) -> Markup:
    return htmlsafe_json_dumps(content, allow_nan=False, separators=(",", ":"))


def _asset(name: str) -> str:
    return resources.files("flatscale.report.render").joinpath("templates", name).read_text("utf-8")
