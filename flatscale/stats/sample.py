"""From a table and two column names to a clean sample of paired values; all input is checked."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flatscale.errors import StatsError
from flatscale.study.registry import nearest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MIN_ROWS = 3
_LARGEST = 1e100
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+\s*")


@dataclass(frozen=True, kw_only=True, eq=False)
class Excluded:
    """A row left out of a pair: its label and family, the column at fault, the reason."""

    label: str
    family: str | None
    column: str
    reason: str


def families_said(number: int) -> str:
    """`1 family`, `3 families`."""
    return "1 family" if number == 1 else f"{number} families"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Paired finite values, in an order that neither the table's order nor family names decide.

    Attributes:
        x_name, y_name: the columns.
        x, y: their n values on the scale analysed.
        family: n codes 0..F-1 into `family_names`; None when the table has no families.
        family_names: the F families.
        labels: n names of rows.
        rows: n positions in the table.
        x_error, y_error: n standard errors on the scale analysed, or None.
        configuration: n codes of the hyperparameter point, equal for replicates, or None.
        excluded: the rows left out.
    """

    x_name: str
    y_name: str
    x: Floats
    y: Floats
    family: Ints | None
    family_names: tuple[str, ...]
    labels: NDArray[np.str_]
    rows: Ints
    x_error: Floats | None = None
    y_error: Floats | None = None
    configuration: Ints | None = None
    excluded: tuple[Excluded, ...] = ()

    @property
    def num_trials(self) -> int:
        """n, the rows used."""
        return len(self.x)

    @property
    def num_families(self) -> int | None:
        """F, the families of these rows; None without families."""
        return None if self.family is None else len(self.family_names)

    def problem(self) -> str | None:
        """Why no correlation of these rows exists, or None."""
        return find_problem(self.x, self.y, self.x_name, self.y_name)

    def keep(self, mask: NDArray[np.bool_]) -> Sample:
        """The rows where `mask` is true, families without rows forgotten."""
        family, names = self.family, self.family_names
        if family is not None:
            used, family = np.unique(family[mask], return_inverse=True)
            names = tuple(names[code] for code in used)
            family = family.astype(np.int64)
        return replace(
            self,
            x=self.x[mask],
            y=self.y[mask],
            family=family,
            family_names=names,
            labels=self.labels[mask],
            rows=self.rows[mask],
            x_error=None if self.x_error is None else self.x_error[mask],
            y_error=None if self.y_error is None else self.y_error[mask],
            configuration=None if self.configuration is None else self.configuration[mask],
        )


def find_problem(x: Floats, y: Floats, x_name: str, y_name: str) -> str | None:
    """Why the correlation of x and y is undefined, or None where it is defined."""
    if len(x) < _MIN_ROWS:
        return f"{len(x)} usable rows, at least {_MIN_ROWS} needed"
    for name, values in ((x_name, x), (y_name, y)):
        if is_constant(values):
            return f"{name} is constant over the {len(values)} usable rows"
        problem = size_problem(values)
        if problem:
            return f"{name} {problem}"
    return None


def size_problem(values: Floats) -> str | None:
    """Why squares of finite values or of their differences leave the range of float64, or None."""
    largest = float(np.max(np.abs(values), initial=0))
    if 0 < largest < 1 / _LARGEST:
        return f"is at most {largest:.3g} in size, too small to square; multiply it by a constant"
    if not largest:
        return None
    away = np.abs(values - np.median(values))
    away = away[away > 0]
    if len(away) and float(np.max(away)) / _LARGEST > float(np.median(away)):
        return "spans more than 100 orders of magnitude; analyse it as log10, or leave rows out"
    return None


def is_constant(values: Floats) -> bool:
    """Whether values differ by no more than rounding of their magnitude."""
    spread = float(np.ptp(values / 2))
    return spread <= 1e-13 * float(np.max(np.abs(values / 2)))


def require_columns(table: pl.DataFrame, columns: Collection[str | None]) -> None:
    """Refuse a table that lacks a column.

    Raises:
        StatsError: names the first column that is missing and the nearest that is there.
    """
    if not isinstance(table, pl.DataFrame):
        raise StatsError(
            f"the table must be a polars DataFrame, found {type(table).__name__}; "
            "flatscale.stats.read_table(path) reads one"
        )
    for column in columns:
        if column is not None and column not in table.columns:
            raise StatsError(
                f"the table has no column {column!r}{nearest(column, table.columns)}; "
                f"its columns: {', '.join(table.columns[:20])}"
            )


def numeric_column(table: pl.DataFrame, column: str) -> Floats:
    """A numeric column as float64 with null as NaN.

    Raises:
        StatsError: the column has another type.
    """
    series = table[column]
    if not (series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Null)):
        found = f"{series.dtype}{_first_text(series)}"
        raise StatsError(
            f"column {column!r} must hold numbers but has type {found}; "
            "leave a missing value empty and write numbers as 1234.5, or name another column"
        )
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64, copy=True)


def error_column(table: pl.DataFrame, column: str) -> Floats:
    """A numeric column of standard errors; true and false, which count as numbers, are refused."""
    if table[column].dtype == pl.Boolean:
        raise StatsError(f"column {column!r} must hold standard errors but holds true and false")
    return numeric_column(table, column)


def _first_text(series: pl.Series) -> str:
    """Where a column of text holds no number: the first row, and how many there are."""
    if series.dtype != pl.String:
        return ""
    numbers = series.str.strip_chars().cast(pl.Float64, strict=False)
    wrong = (series.is_not_null() & numbers.is_null()).arg_true()
    row = int(wrong[0]) if len(wrong) else 0
    comma = series[row] is not None and _DECIMAL_COMMA.fullmatch(series[row])
    hint = " (a decimal comma?)" if comma else ""
    return f": row {row + 1} holds {series[row]!r}{hint}, one of {max(len(wrong), 1)} such rows"


def check_labels(table: pl.DataFrame, label: str | None) -> NDArray[np.str_]:
    """Labels of all rows.

    Raises:
        StatsError: a label is missing or occurs twice.
    """
    if label is None:
        return np.array([f"row {index}" for index in range(table.height)], dtype=np.str_)
    series = table[label].cast(pl.String)
    if series.null_count():
        raise StatsError(
            f"column {label!r} labels the rows but is missing in {series.null_count()} of them"
        )
    repeated = series.filter(series.is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        shown = ", ".join(repr(value) for value in repeated[:3])
        raise StatsError(
            f"column {label!r} must label each row once, but {len(repeated)} labels occur more "
            f"than once ({shown}); drop the duplicates, or name another label column or several "
            "that name a row together (--label)"
        )
    return series.to_numpy().astype(np.str_)


def select_pair(
    table: pl.DataFrame,
    x: str,
    y: str,
    *,
    family: str | None = None,
    configuration: Sequence[str] = (),
    label: str | None = None,
    log: Collection[str] = (),
    x_error: str | None = None,
    y_error: str | None = None,
) -> Sample:
    """The usable rows of a pair, each unusable row listed with its reason.

    A row is left out when x or y is missing, NaN or infinite, when the logarithm of a value
    declared in `log` does not exist, or when its family is missing.

    Args:
        table: one row a network.
        x, y: the pair of columns.
        family: column of families; None for independent rows.
        configuration: columns that make a hyperparameter point; rows that agree in all of them
            are replicates. Empty where there are none.
        label: column that names each row once; None numbers the rows.
        log: columns replaced by log10; their standard errors follow by the delta method.
        x_error, y_error: columns of standard errors.

    Raises:
        StatsError: a column is missing or holds no numbers, or a label occurs twice.
    """
    require_columns(table, [x, y, family, *configuration, label, x_error, y_error])
    labels = check_labels(table, label)
    families = None if family is None else table[family].cast(pl.String).to_list()
    excluded: dict[int, Excluded] = {}

    def leave_out(index: int, column: str, reason: str) -> None:
        name = None if families is None else families[index]
        excluded.setdefault(
            index, Excluded(label=str(labels[index]), family=name, column=column, reason=reason)
        )

    values: dict[str, Floats] = {}
    for column in dict.fromkeys((x, y)):
        values[column], reasons = to_scale(numeric_column(table, column), log=column in log)
        for index, reason in reasons.items():
            leave_out(index, column, reason)
    for index, name in enumerate(families or ()):
        if name is None:
            leave_out(index, str(family), "missing family")
    rows = np.array([i for i in range(table.height) if i not in excluded], dtype=np.int64)
    codes, names = _encode(None if families is None else [families[i] for i in rows])
    order, codes, names = _canonical_order(values[x][rows], values[y][rows], codes, names)
    rows = rows[order]
    return Sample(
        x_name=x,
        y_name=y,
        x=values[x][rows],
        y=values[y][rows],
        family=codes,
        family_names=names,
        labels=labels[rows],
        rows=rows,
        x_error=_errors(table, x, x_error, log=x in log, rows=rows),
        y_error=_errors(table, y, y_error, log=y in log, rows=rows),
        configuration=_replicates(table, configuration, rows),
        excluded=tuple(excluded[index] for index in sorted(excluded)),
    )


def _replicates(table: pl.DataFrame, columns: Sequence[str], rows: Ints) -> Ints | None:
    """Codes of the distinct values of `columns` at `rows`, by first appearance there."""
    if not columns:
        return None
    points = table.select(columns)[rows.tolist()].rows()
    codes: dict[tuple[object, ...], int] = {}
    return np.array([codes.setdefault(point, len(codes)) for point in points], dtype=np.int64)


def to_scale(raw: Floats, *, log: bool) -> tuple[Floats, dict[int, str]]:
    """Values on the scale analysed, and of each row that is not usable the reason."""
    reasons = {int(i): "missing or not a number" for i in np.flatnonzero(np.isnan(raw))}
    reasons |= {int(i): "infinite" for i in np.flatnonzero(np.isinf(raw))}
    for index in np.flatnonzero(np.abs(np.nan_to_num(raw, posinf=0, neginf=0)) > _LARGEST):
        reasons[int(index)] = f"{raw[index]:g} is too large to square"
    if not log:
        return raw, reasons
    for index in np.flatnonzero(raw <= 0):
        reasons.setdefault(int(index), f"log10 of {raw[index]:g} does not exist")
    positive = np.where(raw > 0, raw, np.nan)
    return np.log10(positive), reasons


def _errors(
    table: pl.DataFrame, column: str, error: str | None, *, log: bool, rows: Ints
) -> Floats | None:
    if error is None:
        return None
    values = error_column(table, error)[rows]
    negative = rows[values < 0]
    if len(negative):
        first = int(negative.min())
        raise StatsError(
            f"column {error!r} holds standard errors but {len(negative)} are negative, the first "
            f"in row {first + 1}: {table[error][first]}"
        )
    values[~np.isfinite(values)] = np.nan
    if log:
        values = values / (np.abs(numeric_column(table, column)[rows]) * np.log(10))
    return None if np.all(np.isnan(values)) else values


def _encode(families: Sequence[str | None] | None) -> tuple[Ints | None, tuple[str, ...]]:
    if families is None:
        return None, ()
    names = sorted({str(name) for name in families})
    index = {name: code for code, name in enumerate(names)}
    return np.array([index[str(name)] for name in families], dtype=np.int64), tuple(names)


def _canonical_order(
    x: Floats, y: Floats, codes: Ints | None, names: tuple[str, ...]
) -> tuple[Ints, Ints | None, tuple[str, ...]]:
    """Row order from the values alone, and family codes by first appearance in that order.

    Resampling then draws the same rows whatever the table's order or its families' names.
    """
    if codes is None:
        return np.lexsort((y, x)), None, names
    by_value = np.lexsort((y, x))
    contents: list[list[tuple[float, float]]] = [[] for _ in names]
    for row in zip(
        codes[by_value].tolist(), x[by_value].tolist(), y[by_value].tolist(), strict=True
    ):
        contents[row[0]].append(row[1:])
    # families with equal contents are interchangeable, so their order among each other is free
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=contents.__getitem__)] = np.arange(len(names))
    order = np.lexsort((rank[codes], y, x))
    _, first = np.unique(codes[order], return_index=True)
    present = codes[order][np.sort(first)]
    recode = np.zeros(len(names), dtype=np.int64)
    recode[present] = np.arange(len(present))
    return order, recode[codes[order]], tuple(names[code] for code in present)
