"""Numbers and intervals in the words of a reader."""

from __future__ import annotations

import math
from collections.abc import Callable

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
    return MISSING if value is None else f"{value:.2f}".replace("-", "−")


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
