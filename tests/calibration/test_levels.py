"""The statistics have the error rates they claim: `make calibration` as tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

import tests.calibration.everything  # noqa: F401
from tests.calibration.harness import (
    ROWS,
    Rate,
    markdown,
    measure,
    measure_all,
    measure_until_clear,
    misses,
    too_close,
)

QUICK = {
    "plain: family effects, no slope": ("pooled", "within", "partial", "reversal"),
    "slopes differ between families (sd .6)": ("within", "partial"),
    "1 family, 9 configurations x 5 seeds": ("pooled", "within", "partial"),
    "3 families": ("within", "comparison"),
    "12 families x 6 configurations x 3 seeds": ("within",),
}
LIMITED = [name for name, row in ROWS.items() if row.limits]


@pytest.mark.parametrize("name", QUICK)
def test_levels_on_a_few_tables(name: str) -> None:
    rates = measure(name, 200, only=QUICK[name])
    assert set(rates) == set(QUICK[name])
    # 200 tables: a rate of 5% has a Monte Carlo error of 1.5%
    assert misses(name, rates, slack=2.0) == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", LIMITED)
def test_levels(name: str) -> None:
    rates = measure_until_clear(name, 1000)
    assert set(ROWS[name].limits) <= set(rates)
    assert misses(name, rates, slack=1.0) == []


def test_naive_tests_are_seen_to_miss_their_level() -> None:
    """The harness can fail: networks that count as independent reject far too often."""
    rates = measure("1 family, 9 configurations x 5 seeds", 100, only=["naive within"])
    assert rates["naive within"].percent > 15


def test_processes_and_blocks_change_no_rate() -> None:
    name = "1 family, 9 configurations x 5 seeds"
    alone = measure(name, 12, only=["pooled"])["pooled"]
    parts = [measure(name, 6, first, only=["pooled"])["pooled"] for first in (0, 6)]
    assert alone == Rate(
        yes=sum(p.yes for p in parts), answered=sum(p.answered for p in parts), tables=12
    )


def test_a_row_close_to_a_limit_has_more_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "1 family, 9 configurations x 5 seeds"
    monkeypatch.setitem(ROWS, name, replace(ROWS[name], most=20))
    # 12 tables leave every limit open
    assert measure_until_clear(name, 12, only=["pooled"]) == measure(name, 20, only=["pooled"])
    assert too_close(name, {"pooled": Rate(yes=53, answered=1000, tables=1000)}) is False
    assert too_close(name, {"pooled": Rate(yes=32, answered=600, tables=600)})
    assert too_close(name, {"pooled": Rate(yes=85, answered=1000, tables=1000)})
    assert measure_until_clear(name, 12, only=["naive r"])["naive r"].tables == 12


def test_a_miss_is_said_and_marked() -> None:
    name = "plain: family effects, no slope"
    limits = ROWS[name].limits
    found = {c: Rate(yes=50, answered=1000, tables=1000) for c in limits}
    found["within"] = Rate(yes=90, answered=1000, tables=1000)
    found["pooled"] = Rate(yes=0, answered=0, tables=1000)
    said = misses(name, found, slack=1.0)
    assert len(said) == 2
    assert any("within 9.0% (error 0.9, 1000 of 1000 tables answered)" in line for line in said)
    assert "| 9.0 (0.9) *" in markdown({name: found})
    assert measure_all([], 10) == {}
