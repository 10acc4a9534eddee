"""The pieces: synthesis, resampling, corrected correlations, robust fits, multiplicity."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from flatscale.stats import (
    Estimate,
    add_q_values,
    bca_intervals,
    compare_metrics,
    disattenuated,
    estimate_correlation,
    family_jackknife,
    mantel,
    mixed_model,
    partial_correlation,
    reliability,
    robust_line,
    select_pair,
    synthesize,
)
from flatscale.stats.estimators.bootstrap import draw_counts
from flatscale.stats.estimators.correlation import STATISTICS
from flatscale.stats.estimators.robust_line import mm_fit
from flatscale.stats.estimators.standard_residuals import bisquare_steps
from flatscale.stats.estimators.synthesis import fisher_z


def correlated(seed: int, n: int, r: float) -> tuple[np.ndarray, np.ndarray]:
    x, noise = np.random.default_rng(seed).standard_normal((2, n))
    return x, r * x + math.sqrt(1 - r**2) * noise


@pytest.mark.parametrize("method", sorted(STATISTICS))
def test_every_statistic_on_resamples_is_itself_on_the_repeated_rows(method: str) -> None:
    """Counting rows and repeating them are the same thing, with and without ties."""
    x, y = correlated(0, 30, 0.5)
    for a, b in ((x, y), (np.round(x), np.round(2 * y))):
        counts = next(draw_counts(30, 4, seed=1))
        batched = STATISTICS[method].resampled(counts, a, b)
        for line, value in zip(counts.astype(int), batched, strict=True):
            rows = np.repeat(np.arange(30), line)
            alone = estimate_correlation(a[rows], b[rows], method).estimate
            if alone is None:
                assert math.isnan(value)
            else:
                assert value == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("method", sorted(STATISTICS))
def test_every_statistic_is_bounded_symmetric_and_odd(method: str) -> None:
    x, y = correlated(1, 60, 0.6)
    forward = estimate_correlation(x, y, method).estimate
    backward = estimate_correlation(y, x, method).estimate
    mirrored = estimate_correlation(x, -y, method).estimate
    assert forward is not None
    assert 0.2 < forward < 0.9
    assert backward == pytest.approx(forward, abs=1e-9)
    assert mirrored == pytest.approx(-forward, abs=1e-9)


@pytest.mark.parametrize("method", ["percentage_bend", "winsorized", "skipped"])
def test_robust_correlations_shrug_off_outliers(method: str) -> None:
    x, y = correlated(2, 60, 0.7)
    clean = estimate_correlation(x, y, method).estimate
    x[:4], y[:4] = 15, -15
    assert estimate_correlation(x, y).estimate < 0
    assert estimate_correlation(x, y, method).estimate == pytest.approx(clean, abs=0.35)


def test_winsorized_is_pearson_of_winsorized_values() -> None:
    x, y = correlated(3, 43, 0.4)
    clipped = [stats.mstats.winsorize(v, limits=(0.2, 0.2)).data for v in (x, y)]
    found = estimate_correlation(x, y, "winsorized")
    assert found.estimate == pytest.approx(np.corrcoef(*clipped)[0, 1])


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_bca_is_scipys(method: str) -> None:
    x, y = correlated(4, 25, 0.6)

    def statistic(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        if method == "spearman":
            a, b = (stats.rankdata(v, axis=axis) for v in (a, b))
        a = a - a.mean(axis=axis, keepdims=True)
        b = b - b.mean(axis=axis, keepdims=True)
        square = (a**2).sum(axis=axis) * (b**2).sum(axis=axis)
        return (a * b).sum(axis=axis) / np.sqrt(square)

    expected = stats.bootstrap(
        (x, y), statistic, paired=True, method="BCa", n_resamples=40_000, vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    found = bca_intervals(np.column_stack([x, y]), [(0, 1)], method, num_resamples=40_000)[0]
    assert found.conf_low == pytest.approx(expected.low, abs=0.015)
    assert found.conf_high == pytest.approx(expected.high, abs=0.015)


def test_many_bca_intervals_are_the_single_ones() -> None:
    data = np.random.default_rng(5).standard_normal((40, 4))
    data[:, 3] = 1.0
    together = bca_intervals(data, [(0, 1), (2, 3), (1, 2)], num_resamples=500, seed=3)
    alone = bca_intervals(data, [(1, 2)], num_resamples=500, seed=3)[0]
    assert together[2].conf_low == pytest.approx(alone.conf_low)
    assert together[1].estimate is None
    assert "constant" in str(together[1].reason)


def test_equal_effects_have_no_variance_between() -> None:
    found = synthesize(np.full(6, 0.3), np.full(6, 0.05))
    assert found.tau_squared == 0
    assert found.i_squared == 0
    assert found.z == pytest.approx(0.3)


def test_equal_variances_give_the_closed_form() -> None:
    """With equal sampling variances v REML is the sample variance of the effects less v."""
    effects = np.array([0.1, 0.9, -0.4, 0.5, 0.3])
    found = synthesize(effects, np.full(5, 0.02))
    assert found.tau_squared == pytest.approx(effects.var(ddof=1) - 0.02)
    assert found.z == pytest.approx(effects.mean())
    error = effects.std(ddof=1) / math.sqrt(5)
    assert found.std_error == pytest.approx(error)
    assert found.conf_high == pytest.approx(effects.mean() + stats.t.ppf(0.975, 4) * error)
    assert found.prediction_high > found.conf_high


def test_small_families_are_listed_with_their_reason() -> None:
    found = {
        "good": Estimate(estimate=0.5, num_trials=10),
        "small": Estimate(estimate=0.5, num_trials=3),
        "perfect": Estimate(estimate=1.0, num_trials=9),
        "constant": Estimate(estimate=None, num_trials=9, reason="x is constant"),
    }
    used, z, variance, refused = fisher_z(found)
    assert used == ["good"]
    assert z[0] == pytest.approx(math.atanh(0.5))
    assert variance[0] == pytest.approx(1 / 7)
    assert set(refused) == {"small", "perfect", "constant"}


def test_jackknife_by_hand() -> None:
    rng = np.random.default_rng(6)
    table = pl.DataFrame(
        {"x": rng.random(20), "y": rng.random(20), "family": [f"f{k % 5}" for k in range(20)]}
    )
    found = family_jackknife(select_pair(table, "x", "y", family="family"))
    z = []
    for k in range(5):
        rest = table.filter(pl.col("family") != f"f{k}")
        z.append(math.atanh(np.corrcoef(rest["x"], rest["y"])[0, 1]))
    error = math.sqrt(4 / 5 * sum((v - np.mean(z)) ** 2 for v in z))
    assert found.std_error == pytest.approx(error)
    centre = math.atanh(np.corrcoef(table["x"], table["y"])[0, 1])
    # Bell and McCaffrey's degrees of freedom (tr G)^2 / tr G^2: the scores of the families, which
    # sum to zero and vary as their mean shares of the squares, each divided by sqrt(1 - share)
    shares = np.zeros(5)
    for name in ("x", "y"):
        squares = (table[name].to_numpy() - table[name].mean()) ** 2
        shares += [squares[k::5].sum() / squares.sum() for k in range(5)]
    weights = shares / shares.sum()
    scale = np.diag(1 / np.sqrt(1 - weights))
    form = scale @ (np.diag(weights) - np.outer(weights, weights)) @ scale
    degrees = np.trace(form) ** 2 / np.trace(form @ form)
    half = stats.t.ppf(0.975, degrees) * error
    assert 1 < degrees < 4
    assert found.conf_low == pytest.approx(math.tanh(centre - half))
    assert found.conf_high == pytest.approx(math.tanh(centre + half))


def test_partial_is_the_entry_of_the_precision_matrix() -> None:
    rng = np.random.default_rng(7)
    data = rng.standard_normal((50, 5)) @ rng.standard_normal((5, 5))
    precision = np.linalg.inv(np.corrcoef(data.T))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    found = partial_correlation(data[:, 0], data[:, 1], data[:, 2:])
    assert found.estimate == pytest.approx(expected)
    doubled = np.column_stack([data[:, 2:], data[:, 2] * 2])
    again = partial_correlation(data[:, 0], data[:, 1], doubled)
    assert again.estimate == pytest.approx(expected)
    assert again.p_value == pytest.approx(found.p_value)


def test_covariates_that_determine_a_column_are_said() -> None:
    x, y = correlated(8, 20, 0.5)
    assert "determine x" in str(partial_correlation(x, y, x[:, None]).reason)


def measured(seed: int, noise: float, n: int = 400) -> pl.DataFrame:
    x, y = correlated(seed, n, 0.6)
    rng = np.random.default_rng(seed + 1000)
    return pl.DataFrame(
        {
            "x": x + noise * rng.standard_normal(n),
            "y": y + noise * rng.standard_normal(n),
            "se": np.full(n, noise),
        }
    )


def test_correction_for_measurement_error_recovers_the_correlation() -> None:
    inside = 0
    for seed in range(40):
        sample = select_pair(measured(seed, 0.7), "x", "y", x_error="se", y_error="se")
        found = disattenuated(sample, num_resamples=300, seed=seed)
        assert found.conf_low is not None
        assert found.conf_high is not None
        inside += found.conf_low <= 0.6 <= found.conf_high
    assert inside >= 33
    # the uncorrected value is biased: 0.6 / (1 + 0.49)
    assert estimate_correlation(sample.x, sample.y).estimate < 0.5


def test_correction_is_refused_where_it_does_not_hold() -> None:
    sample = select_pair(measured(0, 0.7), "x", "y", x_error="se", y_error="se")
    shared = disattenuated(sample, shared_source="jacobian")
    assert shared.estimate is None
    assert "share their sampling error (jacobian)" in str(shared.reason)
    noisy = measured(0, 0.7).with_columns(se=pl.lit(5.0))
    hopeless = disattenuated(select_pair(noisy, "x", "y", x_error="se"))
    assert hopeless.estimate is None
    assert "not positive" in str(hopeless.reason)
    assert reliability(noisy["x"].to_numpy(), noisy["se"].to_numpy())[0] is None
    assert disattenuated(select_pair(noisy, "x", "y")).reason


def test_errors_follow_the_logarithm() -> None:
    table = pl.DataFrame({"x": [1.0, 10.0, 100.0], "y": [1.0, 3.0, 2.0], "se": [0.1, 1.0, 10.0]})
    sample = select_pair(table, "x", "y", log=["x"], x_error="se")
    assert sample.x == pytest.approx([0, 1, 2])
    assert sample.x_error == pytest.approx([0.1 / math.log(10)] * 3)


def test_comparison_of_metrics() -> None:
    rng = np.random.default_rng(9)
    outcome = rng.standard_normal(200)
    good, bad = outcome + 0.5 * rng.standard_normal(200), rng.standard_normal(200)
    found = compare_metrics(good, bad, outcome)
    assert found.difference == pytest.approx(found.r_a - found.r_b)
    assert found.conf_low > 0.5
    assert found.p_value < 0.01
    assert found.units == "rows"
    same = compare_metrics(good, good.copy(), outcome, family=np.repeat(np.arange(10), 20))
    assert same.difference == 0
    assert same.p_value == 1
    assert same.units == "families"
    negative = compare_metrics(-good, bad, outcome)
    assert negative.difference < 0 < negative.abs_conf_low


def test_the_interval_of_a_difference_ends_where_the_difference_does() -> None:
    ends = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        outcome, unrelated = rng.standard_normal((2, 12))
        close = outcome + 0.2 * rng.standard_normal(12)
        family = np.repeat(np.arange(6), 2)
        found = compare_metrics(close, unrelated, outcome, family=family)
        ends += [(found.conf_high, found.abs_conf_high)]
        turned = compare_metrics(unrelated, -close, -outcome, family=family)
        assert turned.abs_conf_low == pytest.approx(-found.abs_conf_high)
    signed, sizes = np.array(ends).T
    assert signed.max() == 2
    assert sizes.max() == 1


def test_effects_equal_but_for_rounding_have_no_test() -> None:
    z = np.array([0.3, np.nextafter(0.3, 1), 0.1 + 0.2])
    variance = np.array([0.1, 0.2, 0.3])
    for order in ([0, 1, 2], [2, 0, 1]):
        found = synthesize(z[order], variance[order])
        assert (found.std_error, found.p_value) == (0, None)
    assert synthesize(z * np.array([1, 1, 1.001]), variance).p_value is not None


def test_mantel_by_brute_force() -> None:
    import itertools

    rng = np.random.default_rng(10)
    points = rng.random((5, 2))
    first = np.abs(points[:, None, 0] - points[None, :, 0])
    second = np.abs(points[:, None] - points[None, :]).sum(axis=2)
    upper = np.triu_indices(5, k=1)
    values = [
        np.corrcoef(first[upper], second[np.ix_(p, p)][upper])[0, 1]
        for p in itertools.permutations(range(5))
    ]
    found = mantel(first, second, num_resamples=4000)
    assert found.estimate == pytest.approx(values[0])
    assert found.p_value == pytest.approx(
        np.mean(np.abs(values) >= abs(values[0]) - 1e-9), abs=0.03
    )


def test_q_values_by_group_and_exemption() -> None:
    table = pl.DataFrame(
        {
            "group": ["a", "b", "a", "a", "b"],
            "p_value": [0.01, 0.04, 0.04, None, 0.03],
            "q_value": [None] * 5,
            "primary": [False, False, False, False, True],
        },
        schema_overrides={"q_value": pl.Float64},
    )
    made = add_q_values(table, by=["group"], exempt=pl.col("primary"))
    assert made["q_value"].to_list() == [0.02, 0.04, 0.04, None, None]


def test_robust_line_covers_and_keeps_its_units() -> None:
    x, y = correlated(11, 80, 0.8)
    y[:8] += 20
    family = [f"f{k % 10}" for k in range(80)]
    table = pl.DataFrame({"x": x, "y": y, "family": family})
    line = robust_line(select_pair(table, "x", "y", family="family"))
    low, high = line.interval(0.95)
    assert low < 0.8 < high
    moved = table.with_columns(x=pl.col("x") * 100 + 7, y=pl.col("y") * 3 - 50)
    again = robust_line(select_pair(moved, "x", "y", family="family"))
    assert again.slope == pytest.approx(line.slope * 0.03, rel=1e-6)
    at = np.array([0.0, 1.0])
    band, moved_band = line.band(at, 0.95), again.band(at * 100 + 7, 0.95)
    assert moved_band[0] == pytest.approx(band[0] * 3 - 50, rel=1e-6)


def test_the_last_stage_of_mm_is_the_whole_fit() -> None:
    """Leave-out fits repeat the last stage: on all rows it must end where the whole fit does."""
    x, y = correlated(15, 90, 0.5)
    y[:9] -= 12
    (intercept, slope), _, scale = mm_fit(x, y)
    again = bisquare_steps(x, y, slope + 0.1, intercept - 0.1, scale)
    assert again == pytest.approx((slope, intercept), abs=1e-5)


def test_a_line_through_most_rows_falls_back_to_theil_sen() -> None:
    x = np.arange(20.0)
    y = 2 * x
    y[3] = 50
    line = robust_line(select_pair(pl.DataFrame({"x": x, "y": y}), "x", "y"))
    assert line.slope == pytest.approx(2)


def test_mixed_model_separates_within_from_between() -> None:
    rng = np.random.default_rng(12)
    family = np.repeat(np.arange(30), 12)
    effect = rng.standard_normal(30)
    within = rng.standard_normal(360)
    slopes = -0.5 + 0.3 * rng.standard_normal(30)
    y = 2 * effect[family] + slopes[family] * within + 0.5 * rng.standard_normal(360)
    table = pl.DataFrame(
        {"x": effect[family] + within, "y": y, "family": [f"f{k}" for k in family]}
    )
    fit = mixed_model(select_pair(table, "x", "y", family="family"))
    terms = {term.term: term for term in fit.terms}
    assert terms["within"].estimate == pytest.approx(-0.5, abs=0.2)
    # family means of x carry the mean of 12 within-family draws, which dilutes the slope of 2 a
    # little
    between = terms["between"]
    assert between.conf_low < 2.0
    assert between.estimate == pytest.approx(2, abs=0.5)
    assert terms["sd_within"].estimate == pytest.approx(0.3, abs=0.15)
    assert terms["sd_residual"].estimate == pytest.approx(0.5, abs=0.1)


def test_a_singular_mixed_model_says_so() -> None:
    rng = np.random.default_rng(14)
    table = pl.DataFrame(
        {"x": rng.random(60), "y": rng.random(60), "family": [f"f{k % 6}" for k in range(60)]}
    )
    fit = mixed_model(select_pair(table, "x", "y", family="family"))
    assert fit.singular
    assert "singular" in str(fit.reason)
    assert {term.term for term in fit.terms} >= {"intercept", "within", "between"}
    assert all(math.isfinite(term.estimate) for term in fit.terms)
