"""The order of the report: what is shown where, and in which words."""

from __future__ import annotations

from dataclasses import dataclass

from flatscale.report.charts import Chart, linked_scatter
from flatscale.report.content import Content
from flatscale.report.main_tables import correlations_table, flow_table, unused_table
from flatscale.report.views import TableView


@dataclass(frozen=True, kw_only=True)
class Point:
    """One item of a list: a few words that lead, then the sentence."""

    lead: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One chapter: words first, then figures, then tables."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[TableView, ...] = ()


def sections_of(content: Content) -> tuple[Section, ...]:
    """Every chapter the content has something for, in reading order."""
    chapters = []
    if content.analysis is not None:
        chapters += [_primary(content), _all_pairs(content)]
    chapters.append(_trials(content))
    return tuple(chapter for chapter in chapters if chapter is not None)


def _primary(content: Content) -> Section:
    x, y = content.primary
    return Section(key="primary", title=f"{x} and {y}", charts=(linked_scatter(content),))


def _all_pairs(content: Content) -> Section:
    return Section(key="pairs", title="All pairs", tables=(correlations_table(content),))


def _trials(content: Content) -> Section:
    made = (flow_table(content), unused_table(content))
    return Section(
        key="trials",
        title="Which networks are counted",
        paragraphs=content.notes,
        tables=tuple(view for view in made if view is not None),
    )
