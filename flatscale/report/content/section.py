"""A section of the report is one decorated function, the report's own and a plugin's alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flatscale.report.charts.draw import Chart, charts_of
from flatscale.report.content.report_content import Content
from flatscale.report.content.table_view import TableView
from flatscale.study.registry import Registered, Registry


@dataclass(frozen=True, kw_only=True)
class Point:
    """One item of a list: a few words that lead, then the rest."""

    lead: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One question: the sentence that answers it, and folded under it words, charts, tables.

    Attributes:
        sentence: the answer, made from the findings; it is read while the rest is folded.
        paragraphs: further sentences.
        points: a list, each item with a few words that lead.
        charts: its figures beside those registered for the section.
        tables: its tables; those without rows are not shown.
        title: instead of the one registered.
        key: its anchor on the page; the name registered.
        folded: closed on the page until asked for; as registered.
    """

    sentence: str = ""
    paragraphs: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[TableView, ...] = ()
    title: str = ""
    key: str = ""
    folded: bool = True

    @property
    def has_details(self) -> bool:
        """Whether there is anything under the sentence."""
        return bool(self.paragraphs or self.points or self.charts or self.tables)


@dataclass(frozen=True, kw_only=True)
class RegisteredSection(Registered):
    """What `section` was told of a function; see there."""

    title: str
    after: str | None
    without_statistics: bool
    folded: bool


SECTIONS: Registry[RegisteredSection] = Registry("report section")
"""Every section of the report by its name."""

Maker = Callable[[Content], Section | None]


def section(
    name: str,
    *,
    title: str,
    after: str | None = None,
    without_statistics: bool = False,
    folded: bool = True,
) -> Callable[[Maker], Maker]:
    """Register a section of the report: `function(content) -> Section`, or None for no section.

    Args:
        name: the section's anchor on the page.
        title: its heading: the question that it answers.
        after: the section it follows; the last one by default.
        without_statistics: it is also made when no trial could be analysed.
        folded: closed on the page until asked for.

    Raises:
        ConfigError: the name is taken, or there is no section to follow.
    """
    if after is not None and after not in SECTIONS:
        raise SECTIONS.unknown(after)

    def register(function: Maker) -> Maker:
        SECTIONS.add(
            RegisteredSection(
                name=name,
                function=function,
                title=title,
                after=after,
                without_statistics=without_statistics,
                folded=folded,
            )
        )
        return function

    return register


def sections_of(content: Content) -> tuple[Section, ...]:
    """Every section the content has something for, in reading order."""
    made = []
    for entry in _in_order():
        if content.analysis is None and not entry.without_statistics:
            continue
        found = entry.function(content)
        if found is not None:
            made.append(
                replace(
                    found,
                    key=entry.name,
                    title=found.title or entry.title,
                    folded=entry.folded,
                    charts=(*charts_of(content, entry.name), *found.charts),
                    tables=tuple(table for table in found.tables if table.rows),
                )
            )
    return tuple(s for s in made if s.sentence or s.has_details)


def _in_order() -> list[RegisteredSection]:
    """As registered, but behind the section to follow; those that follow one keep their order."""
    order: list[RegisteredSection] = []
    for entry in SECTIONS.values():
        place = len(order)
        if entry.after is not None:
            place = 1 + max(
                i for i, other in enumerate(order) if entry.after in (other.name, other.after)
            )
        order.insert(place, entry)
    return order
