"""What must not change a result: row order, names of families, units; and agreement with scipy."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import stats

from flatscale.stats import analyze, correlate, family_scan, permutation_within, select_pair

QUICK = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
VALUES = st.floats(-1e3, 1e3, allow_nan=False).map(lambda v: round(v, 3))


@st.composite
def tables(draw: st.DrawFn, *, min_rows: int = 4, max_rows: int = 40) -> pl.DataFrame:
    n = draw(st.integers(min_rows, max_rows))
    return pl.DataFrame(
        {
            "x": draw(st.lists(VALUES, min_size=n, max_size=n)),
            "y": draw(st.lists(VALUES, min_size=n, max_size=n)),
            "family": draw(st.lists(st.sampled_from("abcde"), min_size=n, max_size=n)),
        },
        schema={"x": pl.Float64, "y": pl.Float64, "family": pl.String},
    )


def results(table: pl.DataFrame) -> pl.DataFrame:
    return analyze(table, "x", "y", num_resamples=99).sort("scope", "method")


@QUICK
@given(tables(), st.randoms(use_true_random=False))
def test_row_order_changes_nothing(table: pl.DataFrame, random) -> None:
    order = list(range(table.height))
    random.shuffle(order)
    assert_frame_equal(results(table[order]), results(table))


@QUICK
@given(tables(), st.permutations(list("abcde")))
def test_names_of_families_change_nothing(table: pl.DataFrame, names: list[str]) -> None:
    renamed = table.with_columns(pl.col("family").replace(dict(zip("abcde", names, strict=True))))
    pooled = ~pl.col("scope").str.starts_with("family:")
    # synthesis sums over families in order of name: equal to rounding
    assert_frame_equal(results(renamed).filter(pooled), results(table).filter(pooled), rel_tol=1e-9)


@QUICK
@given(tables(), st.floats(0.01, 100), st.floats(-100, 100))
def test_units_change_nothing(table: pl.DataFrame, scale: float, shift: float) -> None:
    moved = table.with_columns(x=pl.col("x") * scale + shift)
    columns = ["scope", "method", "estimate", "conf_low", "conf_high"]
    # ties must stay ties for ranks to be comparable
    assume(moved["x"].n_unique() == table["x"].n_unique())
    keep = pl.col("method").is_in(["pearson", "spearman", "kendall", "spearman_jackknife"])
    first, second = (results(t).filter(keep).select(columns) for t in (table, moved))
    assert_frame_equal(first, second, rel_tol=1e-5, abs_tol=1e-6)


@QUICK
@given(tables(min_rows=5))
def test_equal_to_scipy(table: pl.DataFrame) -> None:
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    assume(np.ptp(x) > 1 and np.ptp(y) > 1)
    found = {row["method"]: row for row in correlate(table, "x", "y").to_dicts()}
    pearson = stats.pearsonr(x, y)
    interval = pearson.confidence_interval()
    assert found["pearson"]["estimate"] == pytest.approx(pearson.statistic, abs=1e-9)
    if abs(pearson.statistic) < 0.999999:
        assert found["pearson"]["p_value"] == pytest.approx(pearson.pvalue, abs=1e-9)
        assert found["pearson"]["conf_low"] == pytest.approx(interval.low, abs=1e-9)
        assert found["pearson"]["conf_high"] == pytest.approx(interval.high, abs=1e-9)
    spearman = stats.spearmanr(x, y)
    assert found["spearman"]["estimate"] == pytest.approx(spearman.statistic, abs=1e-9)
    kendall = stats.kendalltau(x, y)
    assert found["kendall"]["estimate"] == pytest.approx(kendall.statistic, abs=1e-9)
    assert found["kendall"]["p_value"] == pytest.approx(kendall.pvalue, abs=1e-9)


@QUICK
@given(tables(min_rows=6))
def test_duplicated_rows_within_strata(table: pl.DataFrame) -> None:
    sample = select_pair(pl.concat([table, table]), "x", "y", family="family")
    found = permutation_within(sample, num_resamples=99)
    if found.estimate is None:
        assert found.reason
        return
    assert found.p_value is not None
    assert 1 / 100 <= found.p_value <= 1
    single = permutation_within(select_pair(table, "x", "y", family="family"), num_resamples=99)
    if single.estimate is not None:
        assert found.estimate == pytest.approx(single.estimate, abs=1e-9)


def test_rows_equal_within_their_stratum_cannot_be_significant() -> None:
    """Every shuffle of duplicates inside a stratum gives the observed table, so every one must
    count.
    """
    table = pl.DataFrame(
        {
            "x": [1.0, 1, 1, 1, 5, 6],
            "y": [2.0, 2, 2, 2, 7, 9],
            "family": ["a", "a", "a", "a", "b", "b"],
        }
    )
    found = permutation_within(select_pair(table, "x", "y", family="family"), num_resamples=199)
    # in b the two shuffles give r = 1 and r = -1, both as extreme as observed
    assert found.p_value == 1.0


def test_scan_is_the_same_for_any_row_order_and_names() -> None:
    rng = np.random.default_rng(0)
    family = np.repeat(np.arange(6), 10)
    x = rng.standard_normal(60)
    y = x + rng.standard_normal(60) + np.where(np.arange(60) < 4, 8, 0)
    table = pl.DataFrame({"x": x, "y": y, "family": [f"f{c}" for c in family]})
    first = family_scan(table, "x", "y", num_resamples=499)
    order = rng.permutation(60).tolist()
    renamed = table[order].with_columns(family=pl.lit("g") + pl.col("family"))
    second = family_scan(renamed, "x", "y", num_resamples=499)
    columns = ["side", "p_value", "q_value", "mean_z", "num_members"]
    assert_frame_equal(first.select(columns), second.select(columns))
    assert first.row(0, named=True)["family"] == "f0"
    assert set(first.row(0, named=True)["members"]) == {"row 0", "row 1", "row 2", "row 3"}
