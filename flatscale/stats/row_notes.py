"""What a reader must know of the rows of a table: those left out, repeated, without an error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from flatscale.stats.sample import Sample

_LISTED = 10


def row_notes(
    table: pl.DataFrame,
    sample: Sample,
    *,
    label: str | None = None,
    errors: Sequence[str | None] = (),
) -> list[str]:
    """Sentences that name each row by its number, counted from 1 below the header, and its value.

    Args:
        table: the table that the sample was selected from.
        sample: the usable rows of a pair, as they were selected.
        label: the column that names the rows, if one does.
        errors: the columns of standard errors.
    """
    notes = []
    if sample.excluded:
        positions = sorted({*range(table.height)} - {*sample.rows.tolist()})
        both = zip(positions, sample.excluded, strict=True)
        rows = [(position, e.column, e.reason) for position, e in both]
        listed = _listed(
            f"{_row(row, label, table)}: {column} is {_value(table[column][row])}"
            + next((f" ({word})" for word in ("no log10", "too large") if word[3:] in reason), "")
            for row, column, reason in rows
        )
        notes.append(
            f"{len(rows)} of {table.height} rows are left out of {sample.x_name} against "
            f"{sample.y_name}. {listed}."
        )
    for column in dict.fromkeys(name for name in errors if name is not None):
        found = [(row, table[column][row]) for row in sorted(sample.rows.tolist())]
        absent = [(row, v) for row, v in found if v is None or not math.isfinite(v)]
        if absent:
            listed = _listed(f"{_row(row, label, table)}: {_value(v)}" for row, v in absent)
            notes.append(
                f"{len(absent)} rows have no usable standard error in {column} and count without "
                f"one. {listed}."
            )
    return notes + repeated_rows(table)


def repeated_rows(table: pl.DataFrame) -> list[str]:
    """Sentences on rows that are equal in every column, and on networks in several rows."""
    flat = [name for name, kind in table.schema.items() if not kind.is_nested()]
    notes = []
    for columns, what in ((flat, "in every column"), (["network_id"], "in network_id")):
        if not table.height or not set(columns) <= set(table.columns) or not columns:
            continue
        numbered = table.select(columns).with_row_index("#row", offset=1)
        if columns == ["network_id"]:
            numbered = numbered.drop_nulls()
        groups = numbered.group_by(columns, maintain_order=True).agg("#row")["#row"].to_list()
        repeats = [rows for rows in groups if len(rows) > 1]
        if repeats:
            listed = _listed(" = ".join(map(str, rows)) for rows in repeats)
            notes.append(
                f"Rows that are equal {what} count as different networks: {listed}. Where one "
                "network was entered more than once, drop the repeats."
            )
            break
    return notes


def _row(row: int, label: str | None, table: pl.DataFrame) -> str:
    number = f"row {row + 1}"
    name = None if label is None else str(table[label][row])
    return number if name in (None, number) else f"{number} ({name})"


def _value(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(items: Iterable[str]) -> str:
    known = list(items)
    more = f"; and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    text = "; ".join(known[:_LISTED]) + more
    return text[0].upper() + text[1:] if text.startswith("row") else text
