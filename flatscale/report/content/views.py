"""A table as it is shown: the same cells on the page and in LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from flatscale.report.words import numbers

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is printed, and what it sorts by (empty: last)."""

    text: str
    order: str


@dataclass(frozen=True, kw_only=True)
class Header:
    """A column's head: its title, whether it holds numbers, and what it means."""

    title: str
    is_number: bool
    meaning: str = ""


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table ready to print.

    Attributes:
        key: names its anchor on the page and its file `tables/<key>.tex`.
        title: what it is.
        caption: how to read it, in plain words.
        headers, rows: its content; all rows have as many cells as there are headers.
        emphasised: numbers of the rows set in bold (the primary pair, flagged clusters).
        folded: closed on the page until asked for.
    """

    key: str
    title: str
    caption: str
    headers: tuple[Header, ...]
    rows: tuple[tuple[Cell, ...], ...]
    emphasised: frozenset[int] = frozenset()
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Field:
    """How one column of a frame, or several together, becomes a column that is shown."""

    title: str
    show: Callable[[Row], str]
    order: Callable[[Row], Any]
    is_number: bool
    meaning: str = ""


def text(title: str, column: str, meaning: str = "") -> Field:
    """A column of words; a missing one is left empty."""
    return Field(
        title=title,
        show=lambda row: "" if row[column] is None else str(row[column]),
        order=lambda row: row[column],
        is_number=False,
        meaning=meaning,
    )


def real(title: str, column: str, meaning: str = "", *, digits: int = 3) -> Field:
    """A column of numbers, to a few significant digits."""
    return _numeric(title, column, meaning, lambda value: numbers.number(value, digits))


def corr(title: str, column: str, meaning: str = "") -> Field:
    """A column of correlations or shares, to two decimals."""
    return _numeric(title, column, meaning, numbers.correlation)


def prob(title: str, column: str, meaning: str = "") -> Field:
    """A column of p- or q-values."""
    return _numeric(title, column, meaning, numbers.p_value)


def whole(title: str, column: str, meaning: str = "") -> Field:
    """A column of counts."""
    return _numeric(title, column, meaning, numbers.count)


def span(title: str, low: str, high: str, meaning: str = "", *, digits: int | None = None) -> Field:
    """Two columns as one interval, sorted by its lower end."""
    return Field(
        title=title,
        show=lambda row: numbers.interval(row[low], row[high], digits=digits),
        order=lambda row: row[low],
        is_number=True,
        meaning=meaning,
    )


def yes(title: str, column: str, meaning: str = "") -> Field:
    """A column of truths; only `yes` is printed."""
    return Field(
        title=title,
        show=lambda row: "yes" if row[column] else "",
        order=lambda row: 0 if row[column] else 1,
        is_number=False,
        meaning=meaning,
    )


def _numeric(title: str, column: str, meaning: str, show: Callable[[Any], str]) -> Field:
    return Field(
        title=title,
        show=lambda row: show(row[column]),
        order=lambda row: row[column],
        is_number=True,
        meaning=meaning,
    )


def make_view(
    key: str,
    title: str,
    caption: str,
    frame: pl.DataFrame,
    fields: tuple[Field, ...],
    *,
    emphasise: Callable[[Row], bool] = lambda row: False,
) -> TableView:
    """A frame's rows through the fields that show them; an empty frame gives an empty table."""
    rows = list(frame.iter_rows(named=True))
    cells = [[Cell(text=f.show(row), order=_order(f.order(row))) for row in rows] for f in fields]
    # A column of words with nothing in it (no reasons, no notes) is not shown.
    shown = [i for i, f in enumerate(fields) if f.is_number or any(c.text for c in cells[i])]
    return TableView(
        key=key,
        title=title,
        caption=caption,
        headers=tuple(
            Header(title=fields[i].title, is_number=fields[i].is_number, meaning=fields[i].meaning)
            for i in shown
        ),
        rows=tuple(zip(*(cells[i] for i in shown), strict=True)),
        emphasised=frozenset(i for i, row in enumerate(rows) if emphasise(row)),
    )


def _order(value: Any) -> str:
    return "" if value is None else repr(float(value)) if isinstance(value, float) else str(value)
