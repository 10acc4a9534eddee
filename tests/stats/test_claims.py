"""Verdicts follow from the interval alone; the intervals of shares and means are textbook ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from flatscale.errors import StatsError
from flatscale.stats import (
    CLAIMS_SCHEMA,
    Claim,
    analyze,
    claims_table,
    compare_metrics,
    correlation_of,
    difference_of_sizes,
    mean_estimate,
    share_estimate,
    verdict,
)


@pytest.mark.parametrize(
    ("low", "high", "region", "expected"),
    [
        (0.2, 0.6, {"above": 0}, "agrees"),
        (0.0, 0.6, {"above": 0}, "agrees"),
        (-0.1, 0.6, {"above": 0}, "cannot tell"),
        (-0.6, -0.1, {"above": 0}, "disagrees"),
        (-0.2, 0.2, {"above": -0.3, "below": 0.3}, "agrees"),
        (-0.4, 0.4, {"above": -0.3, "below": 0.3}, "cannot tell"),
        (0.4, 0.6, {"above": -0.3, "below": 0.3}, "disagrees"),
        (None, None, {"above": 0}, "cannot tell"),
    ],
)
def test_a_verdict_is_the_place_of_the_interval(low, high, region, expected) -> None:
    assert verdict(low, high, **region) == expected


def test_what_claims_nothing_is_refused() -> None:
    for region in ({}, {"above": 1, "below": 0}):
        with pytest.raises(StatsError, match="a claim needs a region"):
            verdict(0.1, 0.2, **region)
    with pytest.raises(StatsError, match="low end is not above"):
        verdict(0.3, 0.2, above=0)


def test_shares_have_clopper_and_pearsons_interval() -> None:
    # 10 of 10: the low end solves p^10 = 0.025; 8 of 10 as in Clopper & Pearson's chart.
    whole = share_estimate([True] * 10)
    assert whole.conf_low == pytest.approx(0.025**0.1)
    assert (whole.estimate, whole.conf_high) == (1.0, 1.0)
    part = share_estimate([True] * 8 + [False] * 2)
    assert (part.conf_low, part.conf_high) == pytest.approx((0.4439, 0.9748), abs=1e-4)


def test_a_mean_has_students_interval() -> None:
    found = mean_estimate([1.0, 2.0, 3.0, 4.0, np.nan])
    half = 3.182446 * np.sqrt(5 / 3) / 2
    assert found.num_trials == 4
    assert (found.conf_low, found.conf_high) == pytest.approx((2.5 - half, 2.5 + half), rel=1e-6)
    assert mean_estimate([1.0]).estimate is None


def test_estimates_are_those_of_the_report() -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.normal(size=60))
    table = pl.DataFrame(
        {
            "x": x,
            "z": np.log(x) + rng.normal(size=60) * 2,
            "y": np.log(x) + rng.normal(size=60),
            "family": np.repeat(list("abcdef"), 10),
        }
    )
    rows = analyze(table, "x", "y", log=["x"], num_resamples=100)
    for scope, method in (
        ("pooled", "pearson_jackknife"),
        ("within", "pearson"),
        ("between", "pearson"),
    ):
        (row,) = rows.filter(scope=scope, method=method).to_dicts()
        found = correlation_of(table, "x", "y", scope=scope, log=["x"], family="family")
        assert (found.estimate, found.conf_low) == (row["estimate"], row["conf_low"])
    spoiled = table.with_columns(z=pl.when(pl.int_range(60) == 7).then(None).otherwise("z"))
    difference = difference_of_sizes(spoiled, "x", "z", "y", log=["x"])
    known = spoiled.drop_nulls()
    arrays = (np.log10(known["x"]), known["z"].to_numpy(), known["y"].to_numpy())
    by_hand = compare_metrics(*map(np.asarray, arrays))
    assert difference.num_trials == 59
    assert difference.estimate == pytest.approx(by_hand.abs_difference)
    assert difference.conf_low == pytest.approx(by_hand.abs_conf_low)


def test_claims_are_a_table() -> None:
    found = share_estimate([True] * 30)
    claim = Claim(claim="always", source="paper", above=0.5, found=found, study_hash="abc")
    table = claims_table([claim, replace(claim, exploratory=True)], "figure")
    assert table.schema == CLAIMS_SCHEMA
    row = ("always", "paper", 1.0, 0.8843, 1.0, 30, "agrees", "figure", "abc")
    assert table.rows() == [(*row, False), (*row, True)]
