"""A table as it is shown: the same cells on the page and in LaTeX, from its declaration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from flatscale.report.words import printed
from flatscale.stats.tables.declaration import Column, Format, Table

_METHOD_NAMES = {
    "pearson": "Pearson r",
    "spearman": "Spearman ρ",
    "kendall": "Kendall τ-b",
    "reml": "random-effects mean (REML)",
    "partial": "partial r",
    "disattenuated": "r corrected for measurement error",
    "repeated_measures": "repeated-measures r",
    "mm": "MM",
    "theil_sen": "Theil–Sen",
}
_ENDINGS = {
    "_jackknife": "jackknife",
    "_bca": "BCa bootstrap of networks",
    "_permutation": "permutation inside families",
}


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
        drawn: for each row the ends of its interval and its estimate, to be drawn beside it on an
            axis from -1 to 1; empty where nothing is drawn, None in place of what is absent.
    """

    key: str
    title: str
    caption: str
    headers: tuple[Header, ...]
    rows: tuple[tuple[Cell, ...], ...]
    emphasised: frozenset[int] = frozenset()
    folded: bool = False
    drawn: tuple[tuple[float | None, float | None, float | None], ...] = ()


def table_view(table: Table, frame: pl.DataFrame) -> TableView:
    """The rows of a frame as the table's declaration shows them.

    Columns without a title are left out; so is a column of words with nothing in it (no reasons,
    no notes). A long text that is the same in every row stands in the caption.

    Args:
        table: which columns are shown, with their titles and formats.
        frame: the rows; it has every column that is shown.
    """
    rows = list(frame.iter_rows(named=True))
    titled = [column for column in table.columns if column.title]
    shown = [(column, _cells(column, rows)) for column in titled]
    shown = [
        (column, cells)
        for column, cells in shown
        if column.printed_as in _NUMBERS or any(cell.text for cell in cells)
    ]
    said = [(column, cells[0].text) for column, cells in shown if _says_one_thing(column, cells)]
    shown = [part for part in shown if not _says_one_thing(*part)]
    return TableView(
        key=table.key,
        title=table.title,
        caption=" ".join([table.caption, *(f"All rows, {c.title}: {text}." for c, text in said)]),
        headers=tuple(
            Header(title=c.title, is_number=c.printed_as in _NUMBERS, meaning=c.meaning)
            for c, _ in shown
        ),
        rows=tuple(zip(*(cells for _, cells in shown), strict=True)),
        emphasised=frozenset(i for i, row in enumerate(rows) if table.emphasis(row)),
        folded=table.folded,
    )


def _says_one_thing(column: Column, cells: list[Cell]) -> bool:
    texts = {cell.text for cell in cells}
    return (
        column.printed_as == "text" and len(cells) > 1 and len(texts) == 1 and len(max(texts)) > 40
    )


def method_name(method: str) -> str:
    """A statistic's usual name, with how its interval was made."""
    for ending, how in _ENDINGS.items():
        if method.endswith(ending):
            return f"{method_name(method.removesuffix(ending))} ({how})"
    return _METHOD_NAMES.get(method, method.replace("_", " "))


_NUMBERS: dict[Format, Callable[[Any], str]] = {
    "real": printed.number,
    "whole": printed.count,
    "correlation": printed.correlation,
    "probability": printed.p_value,
}
_WORDS: dict[Format, Callable[[Any], str]] = {
    "text": lambda value: "" if value is None else str(value),
    "method": method_name,
    "scale": lambda value: "log10" if value else "raw",
    "yes": lambda value: "yes" if value else "",
}


def _cells(column: Column, rows: list[dict[str, Any]]) -> list[Cell]:
    """A column's cells: numbers sort by their value (an interval by its lower end), words by text.

    Truths sort before their absence.
    """
    is_number = column.printed_as in _NUMBERS
    show = (_NUMBERS | _WORDS)[column.printed_as]
    cells = []
    for row in rows:
        value = row[column.name]
        text = order = show(value)
        if column.end and is_number:
            text = printed.interval(value, row[column.end], show=show)
        elif column.end:
            text = order = f"{text}, {show(row[column.end])}"
        if column.printed_as == "yes":
            order = "0" if text else "1"
        elif is_number:
            order = "" if value is None else str(value)
        cells.append(Cell(text=text, order=order))
    return cells
