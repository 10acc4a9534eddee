"""Numbers and intervals in the words of a reader."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

MISSING = "–"


def number(value: float | None, digits: int = 3) -> str:
    """`digits` significant digits, plain where readable and scientific where not."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if -4 <= size < 6:
        text = f"{value:.{max(0, digits - 1 - size)}f}"
    else:
        text = f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return text.replace("-", "−")


def correlation(value: float | None) -> str:
    """A correlation to two decimals."""
    if value is None:
        return MISSING
    # Adding zero makes the zero of a small negative value positive.
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """A p- or q-value: three decimals, or `< 0.001`."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def tested(name: str, value: float | None) -> str:
    """`q = 0.031`, or `q < 0.001`."""
    return f"{name} = {p_value(value)}".replace("= <", "<")


def interval(
    low: float | None, high: float | None, *, show: Callable[[float | None], str] = correlation
) -> str:
    """`[low, high]`, each end as `show` prints it."""
    if low is None or high is None:
        return MISSING
    return f"[{show(low)}, {show(high)}]"


def count(value: int | None) -> str:
    """A whole number, thousands apart."""
    return MISSING if value is None else f"{value:,}".replace(",", "\u202f")


def plural(value: int, one: str, many: str | None = None) -> str:
    """`1 trial`, `3 trials`."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def cannot_say(table: pl.DataFrame) -> str:
    """`This cannot be said: ...`, with the reasons in a table that has no result; else nothing."""
    reasons = table["reason"].drop_nulls().unique(maintain_order=True).to_list()
    return f"This cannot be said: {listed(reasons)}." if reasons else ""


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a`, `a and b`, `a, b and c`; beyond `most`, the rest are counted."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{count(len(names) - most)} more")
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])) if shown else ""


def with_interval(row: Mapping[str, Any], level: str = "") -> str:
    """A correlation, and its interval where it has one: `0.76 [0.61, 0.86]`."""
    key, ends = (level, level) if level else ("estimate", "conf")
    low, high = row[f"{ends}_low"], row[f"{ends}_high"]
    value = correlation(row[key])
    return value if low is None or high is None else f"{value} {interval(low, high)}"


def units(kind: str | None, number: int | None) -> str:
    """What counts as independent in an interval: `12 families`; naive where nothing is known."""
    if kind is None:
        return "networks (naive)"
    one, many = _UNITS[kind]
    return many if number is None else plural(number, one, many)


_UNITS = {
    "families": ("family", "families"),
    "configurations": ("configuration", "configurations"),
    "rows": ("network", "networks"),
}
