"""How a table is declared: its name, what a row is, and its columns with their meaning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

TEXT, REAL, COUNT, FLAG = pl.String(), pl.Float64(), pl.Int64(), pl.Boolean()


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its name, its polars type and what it holds."""

    name: str
    dtype: pl.DataType
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table: what a row is, and its columns in order."""

    name: str
    row: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pl.Schema:
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def frame(self, rows: Iterable[Mapping[str, Any]] = ()) -> pl.DataFrame:
        """Rows as a DataFrame with exactly this table's columns and types."""
        return pl.DataFrame(list(rows), schema=self.schema, orient="row")


def declare(name: str, row: str, *columns: tuple[str, pl.DataType, str]) -> Table:
    made = tuple(Column(name=key, dtype=dtype, meaning=text) for key, dtype, text in columns)
    return Table(name=name, row=row, columns=made)
