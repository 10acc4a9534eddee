"""How a table is declared, once: what a row is, and each column's type, meaning, title and format.

The declaration gives empty tables their types, the data files their columns, the report its page
table and LaTeX table, and the reference its meanings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import polars as pl

from flatscale.errors import StatsError
from flatscale.study.registry import Registered, Registry

Row = dict[str, Any]
Format = Literal["text", "method", "scale", "yes", "real", "whole", "correlation", "probability"]

TEXT, REAL, COUNT, FLAG = pl.String(), pl.Float64(), pl.Int64(), pl.Boolean()
_USUAL: Mapping[pl.DataType, Format] = {TEXT: "text", REAL: "real", COUNT: "whole", FLAG: "yes"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        name: its key in the data files.
        dtype: its polars type.
        meaning: what it holds; the page shows it when one points at the title.
        title: its head on the page and in LaTeX; empty keeps it to the data files.
        format: how a value is printed; None takes the usual one of its type.
        end: a second column printed in the same cell, such as the upper end of an interval.
    """

    name: str
    dtype: pl.DataType
    meaning: str
    title: str = ""
    format: Format | None = None
    end: str = ""

    @property
    def printed_as(self) -> Format:
        """The format declared, or the usual one of the type."""
        return self.format or _USUAL.get(self.dtype, "text")


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        name: its key in the data files.
        row: what a row is.
        columns: its columns in order.
        title: its title on the page; empty keeps the table to the data files.
        caption: how to read it, in plain words.
        key: its anchor on the page and the name of its LaTeX file.
        emphasis: which rows are set in bold.
        folded: closed on the page until asked for.
    """

    name: str
    row: str
    columns: tuple[Column, ...]
    title: str = ""
    caption: str = ""
    key: str = ""
    emphasis: Callable[[Mapping[str, Any]], bool] = lambda row: False
    folded: bool = False

    @property
    def schema(self) -> pl.Schema:
        """The columns' names and types."""
        return pl.Schema({column.name: column.dtype for column in self.columns})

    def frame(self, rows: Iterable[Mapping[str, Any]] = ()) -> pl.DataFrame:
        """Rows as a DataFrame with exactly this table's columns; what a row lacks is null."""
        names = self.schema.names()
        kept = [[row.get(name) for name in names] for row in rows]
        return pl.DataFrame(kept, schema=self.schema, orient="row")


def declare(name: str, row: str, *columns: Column, **shown: Any) -> Table:
    """A table from its columns; `shown` are the attributes of `Table` that concern the page."""
    return Table(name=name, row=row, columns=columns, **{"key": name.replace("_", "-"), **shown})


@dataclass(frozen=True, kw_only=True)
class StudyTable(Table, Registered):
    """A table of a study's analysis; its function makes the rows or the frame from a `Study`."""


TABLES: Registry[StudyTable] = Registry("table", StatsError)
"""Every table of a study's analysis, by its name."""

Filler = TypeVar("Filler", bound=Callable[..., "pl.DataFrame | Iterable[Row]"])


def study_table(name: str, row: str, *columns: Column, **shown: Any) -> Callable[[Filler], Filler]:
    """Declare a table of a study's analysis beside the function that fills it.

    Args:
        name: the table's name in `findings.json` and as an attribute of `StudyAnalysis`.
        row: what a row is.
        columns: its columns in order.
        shown: title, caption, key, emphasis: see `Table`.

    Returns:
        A decorator for `function(study)`, which takes a `Study` and gives rows or a DataFrame.
    """

    def register(function: Filler) -> Filler:
        TABLES.add(StudyTable(**vars(declare(name, row, *columns, **shown)), function=function))
        return function

    return register


X = Column("x", TEXT, "column on the horizontal axis")
Y = Column("y", TEXT, "column on the vertical axis")
NAMED_X = Column("x", TEXT, X.meaning, "x")
NAMED_Y = Column("y", TEXT, Y.meaning, "y")
P_VALUE = Column("p_value", REAL, "two-sided p-value", "p", "probability")
REASON = Column("reason", TEXT, "why a number is null", "reason")

UNITS = (
    Column(
        "units",
        TEXT,
        "independent units of the interval: families, configurations or rows; null where networks "
        "are taken as independent whether they are or not",
        "independent",
    ),
    Column("num_units", COUNT, "how many of these units there are"),
)


def number_of_trials(title: str = "n", meaning: str = "rows used") -> Column:
    """The column that counts a table's networks."""
    return Column("num_trials", COUNT, meaning, title)


def interval(
    title: str = "95% interval",
    *,
    low: str = "conf_low",
    high: str = "conf_high",
    meaning: str = "end of the confidence interval",
    format: Format = "correlation",
) -> tuple[Column, Column]:
    """The columns of an interval's ends, printed in one cell."""
    return (
        Column(low, REAL, f"lower {meaning}", title, format, end=high),
        Column(high, REAL, f"upper {meaning}"),
    )


def statistic_columns(
    *, estimate: str = "estimate", num_trials: str = "n", more: tuple[Column, ...] = ()
) -> tuple[Column, ...]:
    """The columns of one headline statistic: level, method, value, interval, p-value, rows.

    Args:
        estimate: title of the value.
        num_trials: title of the number of rows.
        more: columns between the p-value and the number of rows.
    """
    return (
        Column("scope", TEXT, "pooled, within or between", "level"),
        Column("method", TEXT, "name of the statistic, as in findings", "statistic", "method"),
        Column("estimate", REAL, "value of the statistic", estimate, "correlation"),
        *interval(),
        P_VALUE,
        *more,
        *UNITS,
        number_of_trials(num_trials),
        REASON,
    )
