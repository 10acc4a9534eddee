"""What the columns of an outside table are: which become outcomes, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

_ERROR = re.compile(
    r"(^|.*[_. ])(err|se|sem|sd|std|std_?err|std_?error|std_?dev|stderr|error_?bar)"
    r"|(se|sem|std|std_?err|stderr|std_?error)[_. ].*",
    re.IGNORECASE,
)
_INTERVAL = re.compile(r"(^|.*[_. ])(ci|conf|conf_?int|ci_?\d\d)([_. ].*)?|ci\d\d.*", re.IGNORECASE)
_END = re.compile(r"(.+?)[_. ](low|lower|lo|lb|min|high|upper|hi|ub|max)", re.IGNORECASE)
_IDENTITY = re.compile(
    r"(^|.*[_. ])(id|uuid|idx|index|row|row_?(nr|number)|no|nr)|unnamed.*|#|", re.IGNORECASE
)

KEY = "name the rows"


@dataclass(frozen=True, kw_only=True)
class ColumnRoles:
    """The columns of a joined table, sorted.

    Attributes:
        outcomes: those that are outcomes.
        others: reason -> the columns that are none because of it.
    """

    outcomes: tuple[str, ...]
    others: Mapping[str, tuple[str, ...]]

    def summary(self) -> str:
        """One sentence: what was taken as what."""
        apart = "; ".join(f"{', '.join(names)} ({why})" for why, names in self.others.items())
        text = f"taken as outcomes: {', '.join(self.outcomes) or 'none'}"
        return f"{text}; not taken: {apart}" if apart else text


def column_roles(
    table: pl.DataFrame,
    added: Sequence[str],
    *,
    keys: Sequence[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> ColumnRoles:
    """Sort the columns that a join added to a table.

    No outcomes are columns that name the rows, repeat a column of the table in every row, hold no
    numbers or one value only, number the rows, or are called what standard errors (`*_err`,
    `se_*`), ends of intervals (`*_ci_low`; `a_low` beside `a`) and identifiers (`id`, `*_id`) are.

    Args:
        table: the joined table.
        added: its columns that came from the other table.
        keys: the columns joined by, which name the rows.
        renamed: added column -> the table's own column after which it was renamed.
    """
    own = dict(renamed or {})
    original = {name: own.get(name, name) for name in added}
    others: dict[str, tuple[str, ...]] = {KEY: tuple(keys)} if keys else {}
    outcomes = []
    for name in added:
        why = _by_name(original[name], {*original.values()}) or _by_values(table, name)
        if name in own and _repeats(table, own[name], name):
            why = "repeat the table's own column of that name"
        if why is None:
            outcomes.append(name)
        else:
            others[why] = (*others.get(why, ()), name)
    return ColumnRoles(outcomes=tuple(outcomes), others=others)


def _by_name(name: str, beside: set[str]) -> str | None:
    if _ERROR.fullmatch(name):
        return "called like standard errors"
    end = _END.fullmatch(name)
    if _INTERVAL.fullmatch(name) or (end and end.group(1) in beside):
        return "called like ends of intervals"
    return "called like identifiers" if _IDENTITY.fullmatch(name) else None


def _by_values(table: pl.DataFrame, name: str) -> str | None:
    values = table[name].drop_nulls()
    if not values.dtype.is_numeric():
        return f"hold {'true and false' if values.dtype == pl.Boolean else 'no numbers'}"
    if values.n_unique() < 2:
        return "hold one value only"
    counted = values.dtype.is_integer() and values.len() == table.height > 2
    if counted and (values.diff().drop_nulls() == 1).all() and values[0] in (0, 1):
        return "number the rows"
    return None


def _repeats(table: pl.DataFrame, own: str, other: str) -> bool:
    both = table.select(own, other).drop_nulls()
    if not both.height:
        return False
    kinds = [dtype.is_numeric() for dtype in both.dtypes]
    same_kind = all(kinds) or both.dtypes[0] == both.dtypes[1]
    return same_kind and bool((both[own] == both[other]).all())
