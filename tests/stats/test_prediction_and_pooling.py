"""Gain beyond hyperparameters, meta-regression and partial pooling against second answers."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import integrate, stats

from flatscale.stats import StudyDesign, analyze_study, select_pair
from flatscale.stats.estimators.meta_regression import meta_regression
from flatscale.stats.estimators.partial_pooling import PRIORS, Priors, half_normal, pool_partially
from flatscale.stats.estimators.predictive_gain import (
    add_measure,
    blocked_folds,
    design_features,
    gain_of,
    normal_scores,
    predict_out_of_fold,
)
from flatscale.stats.estimators.replication import choose_units, recode
from flatscale.stats.estimators.synthesis import reml_tau_squared, synthesize
from tests.stats.published import BCG, log_risk_ratios


def simulated(rng: np.random.Generator, effect: float, *, copies: bool = False) -> pl.DataFrame:
    """3 networks x 6 rates x 4 batch sizes x 2 seeds; outcome and metric both follow the design.

    `effect` is how much of the outcome is the metric's own part, which differs between
    configurations. With `copies` the metric is a function of the design alone.
    """
    points = [(f, r, b, s) for f in range(3) for r in range(6) for b in range(4) for s in range(2)]
    f, r, b, _ = np.array(points).T
    cell = recode(np.stack([f, r, b], axis=1))
    own = rng.standard_normal(72)[cell]
    noise = rng.standard_normal((2, len(f)))
    outcome = np.cos(r) + 0.3 * b * (f - 1) + f + 0.5 * rng.standard_normal(72)[cell] + effect * own
    metric = np.sin(r) + 0.5 * b + (0.0 if copies else 1.0) * (0.7 * own + 0.5 * noise[0])
    return pl.DataFrame(
        {
            "network": [f"n{code}" for code in f],
            "rate": 10.0 ** (-3 + r / 2),
            "batch": 2**b,
            "cell": cell,
            "trial_id": [f"t{k}" for k in range(len(f))],
            "metric": metric,
            "outcome": outcome + 0.5 * noise[1],
        }
    )


def gain(table: pl.DataFrame, seed: int = 0):
    network, cell = recode(table["network"].to_numpy()), table["cell"].to_numpy()
    y, m = (normal_scores(table[name].to_numpy()) for name in ("outcome", "metric"))
    folds = blocked_folds(cell, seed)
    features = design_features(table, ["network", "rate", "batch"])
    without = predict_out_of_fold(features, np.column_stack([y, m]), folds)
    units = choose_units(len(y), network, cell)
    return gain_of(y, without[:, 0], add_measure(without, y, m, folds), units)


def test_gain_is_claimed_where_the_metric_knows_more_and_not_elsewhere() -> None:
    claimed = {0.0: 0, 0.9: 0}
    for effect in claimed:
        for seed in range(10):
            found = gain(simulated(np.random.default_rng(seed), effect))
            claimed[effect] += found.gain.conf_low > 0
            assert found.gain.estimate == pytest.approx(found.both - found.hyperparameters)
    assert claimed[0.0] <= 1
    assert claimed[0.9] >= 8


def test_a_metric_that_the_design_makes_gains_nothing() -> None:
    """Correlated with the outcome through the hyperparameters alone."""
    for seed in range(5):
        table = simulated(np.random.default_rng(seed), 0.0, copies=True)
        table = table.with_columns(metric=pl.col("rate").log10().cos())
        found = gain(table)
        assert found.gain.estimate < 0.02
        assert found.gain.conf_low < 0


def test_no_fold_splits_a_configuration() -> None:
    cell = simulated(np.random.default_rng(0), 0.0)["cell"].to_numpy()
    folds = blocked_folds(cell, 3)
    assert len(np.unique(np.stack([cell, folds]), axis=1).T) == 72
    assert set(np.bincount(folds)) <= {14, 16}


def test_gain_table_leaves_out_configurations_families_and_values() -> None:
    table = simulated(np.random.default_rng(1), 0.9)
    design = StudyDesign(
        primary=("metric", "outcome"), family="network", configuration=("cell",),
        outcomes=("outcome",), hyperparameters=("network", "rate", "batch"), num_resamples=100,
    )  # fmt: skip
    found = analyze_study(table, design).gain_beyond_hyperparameters
    assert found["left_out"].to_list() == ["configuration", "family", "rate", "batch"]
    assert found["reason"].is_null().all()
    inside = found.row(0, named=True)
    assert inside["gain"] == pytest.approx(gain(table).gain.estimate)
    assert inside["conf_low"] > 0
    assert inside["units"] == "configurations"
    # a network never seen has a level of its own, which the hyperparameters cannot know
    assert found.row(1, named=True)["hyperparameters"] < inside["hyperparameters"]


def test_meta_regression_is_weighted_least_squares_at_its_tau() -> None:
    z, variance = log_risk_ratios()
    latitude = np.array([row[4] for row in BCG], dtype=float)
    found = meta_regression(z, variance, latitude[:, None])
    w = 1 / (variance + found.tau_squared)
    design = np.column_stack([np.ones(13), latitude])
    inverse = np.linalg.inv(design.T @ (w[:, None] * design))
    assert found.coefficients == pytest.approx(inverse @ design.T @ (w * z))
    rest = z - design @ found.coefficients
    assert found.std_errors == pytest.approx(np.sqrt(np.diag(inverse) * (w @ rest**2) / 11))
    # the restricted likelihood is highest there

    def likelihood(tau_squared: float) -> float:
        w = 1 / (variance + tau_squared)
        inner = design.T @ (w[:, None] * design)
        rest = z - design @ np.linalg.solve(inner, design.T @ (w * z))
        return float(np.log(w).sum() - np.linalg.slogdet(inner)[1] - w @ rest**2) / 2

    best = likelihood(found.tau_squared)
    assert all(best > likelihood(found.tau_squared * factor) for factor in (0.9, 1.1))
    ones = np.ones((13, 1))
    assert reml_tau_squared(z, variance, ones) == pytest.approx(synthesize(z, variance).tau_squared)


def test_meta_regression_finds_what_explains_families_and_keeps_its_level() -> None:
    false = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        variance = 1 / (rng.integers(5, 30, size=12) - 3.0)
        depth = rng.standard_normal((12, 1))
        z = 0.3 + 0.3 * rng.standard_normal(12) + np.sqrt(variance) * rng.standard_normal(12)
        false += meta_regression(z, variance, depth).p_values[1] <= 0.05
    assert 2 <= false <= 20
    z = 0.3 + 0.4 * depth[:, 0] + np.sqrt(variance) * rng.standard_normal(12)
    found = meta_regression(z, variance, depth)
    assert found.p_values[1] < 0.05
    assert found.explained > 0.5
    with pytest.raises(ValueError, match="collinear"):
        meta_regression(z, variance, np.ones((12, 1)))
    with pytest.raises(ValueError, match="too few"):
        meta_regression(z[:2], variance[:2], depth[:2])


def test_partial_pooling_is_the_double_integral() -> None:
    z, variance = np.array([0.9, 0.1, 0.4]), np.array([0.05, 0.1, 0.02])
    found = pool_partially(z, variance, PRIORS[0])

    mu, step = np.linspace(-3, 3, 1501)[:, None], np.linspace(0, 4, 1501)
    like = np.exp(-(mu**2) / 2 - (step / 0.5) ** 2 / 2)
    for effect, known in zip(z, variance, strict=True):
        like = like * stats.norm.pdf(effect, mu, np.sqrt(known + step**2))

    def mass(of_mu: slice = slice(None), of_tau: slice = slice(None), times: float = 1.0) -> float:
        inner = integrate.simpson(like[of_mu, of_tau] * times, step[of_tau], axis=1)
        return float(integrate.simpson(inner, mu[of_mu, 0]))

    assert found.mean.mean == pytest.approx(mass(times=mu) / mass(), abs=1e-5)
    low = slice(0, 801)  # up to 0.2
    assert found.mean.below(float(mu[800, 0])) == pytest.approx(mass(of_mu=low) / mass(), abs=1e-5)
    edge = slice(0, 113)
    assert found.tau_below(step[112]) == pytest.approx(mass(of_tau=edge) / mass(), abs=1e-3)
    for value in (found.mean, found.new, *found.families):
        assert value.below(value.quantile(0.1)) == pytest.approx(0.1, abs=1e-6)


def test_families_are_drawn_to_their_mean_and_one_alone_keeps_its_own() -> None:
    z, variance = np.array([1.0, 0.0, 0.1, -0.1]), np.array([0.1, 0.01, 0.01, 0.01])
    found = pool_partially(z, variance, PRIORS[0])
    assert found.mean.mean < found.families[0].mean < 1.0
    assert abs(found.families[1].mean) < 0.1
    alone = pool_partially(np.array([0.5]), np.array([1e-6]), PRIORS[0])
    assert alone.families[0].mean == pytest.approx(0.5, abs=1e-3)
    flat = Priors(name="", tau=half_normal(1e-6), sd=math.inf)
    fixed = pool_partially(z, variance, flat).mean
    assert fixed.mean == pytest.approx(z @ (1 / variance) / (1 / variance).sum(), abs=1e-4)
    with pytest.raises(ValueError, match="positive variance"):
        pool_partially(z, 0 * z, PRIORS[0])


@pytest.mark.parametrize("num_studies", [250, pytest.param(5000, marks=pytest.mark.slow)])
def test_partial_pooling_is_calibrated(num_studies: int) -> None:
    """Simulation-based calibration: truths drawn from the priors rank evenly in the posteriors."""
    ranks: dict[str, list[float]] = {"mean": [], "tau": [], "family": [], "new": []}
    for seed in range(num_studies):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(2, 9))
        mu, tau = rng.standard_normal(), 0.5 * abs(rng.standard_normal())
        variance = 1 / rng.integers(1, 30, size=count)
        theta = mu + tau * rng.standard_normal(count)
        z = theta + np.sqrt(variance) * rng.standard_normal(count)
        found = pool_partially(z, variance, PRIORS[0])
        ranks["mean"].append(found.mean.below(mu))
        ranks["tau"].append(found.tau_below(tau))
        ranks["family"].append(found.families[0].below(theta[0]))
        ranks["new"].append(found.new.below(mu + tau * rng.standard_normal()))
    for name, values in ranks.items():
        assert stats.kstest(values, "uniform").pvalue > 0.002, name
        inside = np.mean([0.05 < value < 0.95 for value in values])
        assert inside == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / num_studies)), name


def families_table(num_families: int, *, replicates: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(num_families)
    rows = []
    for family in range(num_families):
        for cell in range(10):
            x = rng.standard_normal()
            y = (0.2 + 0.15 * family) * x + rng.standard_normal()
            for _ in range(replicates):
                shift = 0.1 * rng.standard_normal(2)
                rows.append((f"f{family}", cell, 10.0 ** (4 + family), x + shift[0], y + shift[1]))
    columns = ["family", "cell", "num_parameters", "x", "y"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_tables_over_families() -> None:
    design = StudyDesign(primary=("x", "y"), label=None, covariates=("cell",), num_resamples=100)
    study = analyze_study(families_table(6), design)
    size = study.meta_regression.row(0, named=True)
    assert size["moderator"] == "log10 num_parameters"
    assert size["num_families"] == 6
    assert size["conf_low"] < size["estimate"] < size["conf_high"]
    assert study.meta_regression.row(1, named=True)["reason"] == "the same in every family"
    pooled = study.partial_pooling
    stated = pooled.filter("stated")
    assert stated["quantity"].to_list()[:3] == ["mean over families", "a new family", "tau"]
    assert stated.height == 9
    assert pooled["priors"].n_unique() == len(PRIORS)
    own = study.family_correlations["estimate"].to_list()
    assert stated["own"].drop_nulls().to_list() == pytest.approx(own)
    wide = stated.row(1, named=True)
    assert wide["conf_low"] < stated.row(0, named=True)["conf_low"]


def test_replicates_do_not_sharpen_partial_pooling() -> None:
    def width(replicates: int) -> float:
        design = StudyDesign(
            primary=("x", "y"), label=None, configuration=("cell",), num_resamples=100
        )
        found = analyze_study(families_table(3, replicates=replicates), design).partial_pooling
        row = found.row(0, named=True)
        return row["conf_high"] - row["conf_low"]

    assert width(4) == pytest.approx(width(1), rel=0.15)


def test_two_families_are_too_few_for_meta_regression_and_not_for_pooling() -> None:
    design = StudyDesign(primary=("x", "y"), label=None, num_resamples=100)
    study = analyze_study(families_table(2), design)
    assert "at least 4 needed" in study.meta_regression.row(0, named=True)["reason"]
    assert study.partial_pooling.row(0, named=True)["estimate"] is not None
    sample = select_pair(families_table(1), "x", "y", family="family")
    assert sample.num_families == 1
    alone = analyze_study(families_table(1), design).partial_pooling
    assert "at least 2 needed" in alone.row(0, named=True)["reason"]
