"""Error rates of the statistics by simulation: rows make tables, columns test them.

A row is a function from a random generator to a `Simulated` table, registered under the sentence
that the printed table shows. A column is a function from such a table to whether its test rejects
at 5% (or an interval misses the truth), None where the estimator refuses to answer. Rows and
columns of one group make one table.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import zlib
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flatscale.stats.sample import Sample

ALPHA = 0.05
FRESH = 10_000
"""Number of the first table: nothing was tuned on tables from here on."""
MOST, MOST_SCANS = 4000, 2000
"""Tables of a row on which a limit too close to call is decided; of the scan, which is slower."""
CLOSE = 2.0
"""A share this many Monte Carlo errors from a limit, on either side, is too close to call."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulated:
    """One simulated study: paired values, their levels, and what single columns need besides.

    covariates: (n, k) held fixed. rival: a second metric for comparisons with y. truth: name of a
    quantity -> its true value, for rows where it is not zero. extra: whatever else a group needs.
    """

    x: np.ndarray
    y: np.ndarray
    family: np.ndarray | None = None
    configuration: np.ndarray | None = None
    covariates: np.ndarray | None = None
    rival: np.ndarray | None = None
    truth: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def sample(self) -> Sample:
        """The table as the statistics' own sample."""
        n = len(self.x)
        names: tuple[str, ...] = ()
        family = self.family
        if family is not None:
            codes, family = np.unique(family, return_inverse=True)
            names = tuple(f"f{code}" for code in codes)
        return Sample(
            x_name="x",
            y_name="y",
            x=self.x,
            y=self.y,
            family=family,
            family_names=names,
            labels=np.array([str(k) for k in range(n)], dtype=np.str_),
            rows=np.arange(n),
            configuration=self.configuration,
        )


Generator = Callable[[np.random.Generator], Simulated]
Verdict = Callable[[Simulated], "bool | None"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of table. `limits`: column -> (lowest, highest) share that is right, in percent.

    `columns` names the columns shown, empty for those of the group that every row has and those
    with a limit. `most` is how many tables decide where a few leave a limit too close to call.
    """

    name: str
    group: str
    generate: Generator
    limits: Mapping[str, tuple[float, float]]
    columns: tuple[str, ...] = ()
    most: int = MOST


ROWS: dict[str, Row] = {}
COLUMNS: dict[str, dict[str, Verdict]] = {}
SLOW_COLUMNS: set[str] = set()


def row(
    name: str,
    *,
    group: str = "no effect",
    limits: Mapping[str, tuple[float, float]] | None = None,
    columns: Iterable[str] = (),
    most: int = MOST,
) -> Callable[[Generator], Generator]:
    """Register a table generator as a row of the calibration."""

    def register(generate: Generator) -> Generator:
        assert name not in ROWS, f"two rows are named {name!r}"
        ROWS[name] = Row(
            name=name, group=group, generate=generate, limits=limits or {},
            columns=tuple(columns), most=most,
        )  # fmt: skip
        return generate

    return register


def column(
    name: str, *, group: str = "no effect", slow: bool = False
) -> Callable[[Verdict], Verdict]:
    """Register a test as a column of a group; a slow one only of rows that ask for it."""

    def register(verdict: Verdict) -> Verdict:
        columns = COLUMNS.setdefault(group, {})
        assert name not in columns, f"two columns of {group!r} are named {name!r}"
        columns[name] = verdict
        if slow:
            SLOW_COLUMNS.add(name)
        return verdict

    return register


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How often a column said yes on a row's tables: `yes` of `answered` of `tables`."""

    yes: int
    answered: int
    tables: int

    def __add__(self, other: Rate) -> Rate:
        return Rate(
            yes=self.yes + other.yes,
            answered=self.answered + other.answered,
            tables=self.tables + other.tables,
        )

    @property
    def percent(self) -> float:
        """Share of yes among the answers, in percent; NaN without answers."""
        return 100 * self.yes / self.answered if self.answered else math.nan

    @property
    def error(self) -> float:
        """Monte Carlo standard error of `percent`."""
        if not self.answered:
            return math.nan
        share = (self.yes + 0.5) / (self.answered + 1)
        return 100 * math.sqrt(share * (1 - share) / self.answered)


def measure(
    name: str, num_tables: int, first: int = 0, only: Container[str] | None = None
) -> dict[str, Rate]:
    """Rates of a row's columns (of those in `only`) on its tables `first`, ...

    A table is seeded by the row's name and its own number.
    """
    chosen = ROWS[name]
    columns = COLUMNS[chosen.group]
    shown = chosen.columns or [c for c in columns if c not in SLOW_COLUMNS or c in chosen.limits]
    shown = [c for c in shown if only is None or c in only]
    counts = {column_name: [0, 0] for column_name in shown}
    key = zlib.crc32(name.encode())
    for index in range(first, first + num_tables):
        table = chosen.generate(np.random.default_rng([key, index]))
        for column_name in shown:
            verdict = columns[column_name](table)
            if verdict is not None:
                counts[column_name][0] += bool(verdict)
                counts[column_name][1] += 1
    return {
        name: Rate(yes=yes, answered=answered, tables=num_tables)
        for name, (yes, answered) in counts.items()
    }


def measure_until_clear(
    name: str,
    num_tables: int,
    num_processes: int = 1,
    first: int = 0,
    only: Collection[str] | None = None,
) -> dict[str, Rate]:
    """Rates of a row on `num_tables` tables, or on its `most` where a limit is too close to call.

    The rule has one look: all columns of a row of which one lies within `CLOSE` errors of a limit,
    whether it holds or not, are reported at `most` tables of the same stream, never in between.
    """
    rates = measure_all([name], num_tables, num_processes, first, only)[name]
    rest = ROWS[name].most - num_tables
    if rest <= 0 or not too_close(name, rates):
        return rates
    more = measure_all([name], rest, num_processes, first + num_tables, only)[name]
    return {column_name: rate + more[column_name] for column_name, rate in rates.items()}


def too_close(name: str, rates: Mapping[str, Rate]) -> bool:
    """Whether a limited column of a row lies within `CLOSE` errors of a limit, 0 and 100 apart."""
    return any(
        abs(rates[column_name].percent - limit) <= CLOSE * rates[column_name].error
        for column_name, limits in ROWS[name].limits.items()
        for limit in limits
        if column_name in rates and 0 < limit < 100
    )


def measure_all(
    names: Iterable[str],
    num_tables: int,
    num_processes: int = 1,
    first: int = 0,
    only: Collection[str] | None = None,
) -> dict[str, dict[str, Rate]]:
    """Rates of rows (of the columns in `only`) on their tables `first`, ..., over processes."""
    names = list(names)
    block = math.ceil(num_tables / max(1, num_processes))
    jobs = [
        (name, min(block, num_tables - start), first + start, only)
        for name in names
        for start in range(0, num_tables, block)
    ]
    if num_processes == 1:
        parts = [measure(*job) for job in jobs]
    else:
        # spawned, so that a caller's threads cannot be caught holding a lock
        with multiprocessing.get_context("spawn").Pool(num_processes, _load) as pool:
            parts = pool.starmap(measure, jobs)
    found: dict[str, dict[str, Rate]] = {name: {} for name in names}
    for (name, *_), rates in zip(jobs, parts, strict=True):
        for column_name, rate in rates.items():
            before = found[name].get(column_name, Rate(yes=0, answered=0, tables=0))
            found[name][column_name] = before + rate
    return found


def _load() -> None:
    """Register all rows and columns in a new process, which computes on one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import tests.calibration.everything  # noqa: F401


def misses(name: str, rates: Mapping[str, Rate], slack: float = 0.0) -> list[str]:
    """The limits of a row that its rates break by more than `slack` Monte Carlo errors."""
    broken = []
    for column_name, (low, high) in ROWS[name].limits.items():
        if column_name not in rates:
            continue
        rate = rates[column_name]
        room = slack * rate.error
        if not rate.answered or not low - room <= rate.percent <= high + room:
            broken.append(
                f"{name}: {column_name} {rate.percent:.1f}% (error {rate.error:.1f}, "
                f"{rate.answered} of {rate.tables} tables answered), expected {low:g} to {high:g}%"
            )
    return broken


def markdown(found: Mapping[str, Mapping[str, Rate]]) -> str:
    """Rates as one Markdown table a group; `*` marks a miss, `-` a column that gave no answer."""
    lines: list[str] = []
    for group, columns in COLUMNS.items():
        names = [name for name in found if ROWS[name].group == group]
        if not names:
            continue
        lines += [f"## {group[0].upper()}{group[1:]}", "", "Percent (Monte Carlo error).", ""]
        lines.append("| table | tables | " + " | ".join(columns) + " |")
        lines.append("|---|---|" + "---|" * len(columns))
        for name in names:
            tables = max(rate.tables for rate in found[name].values())
            cells = [_cell(name, column_name, found[name]) for column_name in columns]
            lines.append(f"| {name} | {tables} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(name: str, column_name: str, rates: Mapping[str, Rate]) -> str:
    if column_name not in rates:
        return ""
    rate = rates[column_name]
    if not rate.answered:
        return "-"
    text = f"{rate.percent:.1f} ({rate.error:.1f})"
    if rate.answered < rate.tables:
        text += f", {100 * rate.answered / rate.tables:.0f}% answered"
    limits = ROWS[name].limits.get(column_name)
    missed = limits is not None and not limits[0] <= rate.percent <= limits[1]
    return f"{text} *" if missed else text
