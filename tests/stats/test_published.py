"""Published datasets give their published answers."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_iris

from flatscale.stats import (
    StudyDesign,
    adjust,
    analyze,
    analyze_study,
    bca_interval,
    correlate,
    estimate_correlation,
    mixed_model,
    partial_correlation,
    repeated_measures,
    robust_line,
    select_pair,
    synthesize,
    within_family,
)
from tests.stats import published


def value(frame: pl.DataFrame, scope: str, method: str) -> dict:
    return frame.row(
        by_predicate=(pl.col("scope") == scope) & (pl.col("method") == method), named=True
    )


def test_star_cluster_line_follows_the_main_sequence() -> None:
    sample = select_pair(published.STARS, "log_temperature", "log_light")
    # least squares is led astray by the giants: slope -0.413 (Rousseeuw & Leroy, table 3.2)
    assert np.polyfit(sample.x, sample.y, 1) == pytest.approx([-0.413, 6.793], abs=5e-4)
    line = robust_line(sample)
    assert line is not None
    assert line.method == "mm"
    # robustbase's lmrob gives 2.253 and -4.969; a deterministic start may end a little elsewhere
    assert line.slope == pytest.approx(2.253, abs=0.05)
    assert line.intercept == pytest.approx(-4.969, abs=0.2)


def test_star_cluster_giants_are_outlying_rows() -> None:
    table = published.STARS
    design = StudyDesign(primary=("log_temperature", "log_light"), family=None, label=None)
    outliers = set(analyze_study(table, design).outlier_rows["label"])
    assert outliers >= published.GIANTS
    assert len(outliers) <= 6


def test_star_cluster_robust_correlations_are_positive() -> None:
    found = analyze(published.STARS, "log_temperature", "log_light", family=None)
    assert value(found, "pooled", "pearson")["estimate"] == pytest.approx(-0.210, abs=5e-4)
    for method in ("percentage_bend", "winsorized", "skipped"):
        assert value(found, "pooled", method)["estimate"] > 0.25


@pytest.mark.parametrize(
    ("pair", "r"), zip(published.ANSCOMBE, (0.81642, 0.81624, 0.81629, 0.81652), strict=True)
)
def test_anscombe(pair: tuple, r: float) -> None:
    found = correlate(pl.DataFrame({"x": pair[0], "y": pair[1]}), "x", "y", methods=["pearson"])
    assert found["estimate"][0] == pytest.approx(r, abs=6e-6)
    # F(1, 9) of the regression is 17.99 in all four, p = 0.0022
    assert found["p_value"][0] == pytest.approx(0.0022, abs=5e-5)


def test_anscombe_robust_line_ignores_the_outlier_of_the_third() -> None:
    x, y = published.ANSCOMBE[2]
    line = robust_line(select_pair(pl.DataFrame({"x": x, "y": y}), "x", "y"))
    assert line is not None
    assert line.slope == pytest.approx(0.345, abs=0.005)
    assert line.intercept == pytest.approx(4.0, abs=0.05)


def test_law_school_bca() -> None:
    lsat, gpa = (published.LAW_SCHOOL[c].to_numpy().astype(float) for c in ("lsat", "gpa"))
    found = bca_interval(lsat, gpa, confidence=0.90, num_resamples=40_000, seed=1)
    assert found.estimate == pytest.approx(0.776, abs=5e-4)
    assert found.conf_low == pytest.approx(0.43, abs=0.015)
    assert found.conf_high == pytest.approx(0.92, abs=0.015)


def test_simpsons_paradox_iris() -> None:
    iris = load_iris()
    names = iris.target_names[iris.target]
    table = pl.DataFrame(
        {"length": iris.data[:, 0], "width": iris.data[:, 1], "species": names.tolist()}
    )
    found = analyze(table, "length", "width", family="species")
    # R: cor(iris$Sepal.Length, iris$Sepal.Width), and by species
    assert value(found, "pooled", "pearson")["estimate"] == pytest.approx(-0.1175698, abs=1e-6)
    inside = {"setosa": 0.7425467, "versicolor": 0.5259107, "virginica": 0.4572278}
    for species, r in inside.items():
        assert value(found, f"family:{species}", "pearson")["estimate"] == pytest.approx(
            r, abs=1e-6
        )
    assert value(found, "within", "pearson")["estimate"] > 0.45
    assert value(found, "synthesis", "reml")["estimate"] > 0.45


def test_repeated_measures_correlation() -> None:
    sample = select_pair(published.BLAND_ALTMAN, "ph", "paco2", family="subject")
    within = repeated_measures(sample)
    assert within.estimate == pytest.approx(-0.507, abs=5e-4)
    assert within.p_value == pytest.approx(0.0008, abs=5e-5)
    # rmcorr's interval with 38 degrees of freedom
    assert within.conf_low == pytest.approx(-0.707, abs=1e-3)
    assert within.conf_high == pytest.approx(-0.232, abs=1e-3)
    assert within.num_families == 8
    # one subject has 63% of the variation of pH and slopes differ in sign: eight subjects say less
    protected = within_family(sample)
    assert protected.estimate == pytest.approx(within.estimate)
    assert protected.units == "families"
    assert protected.conf_low < within.conf_low < within.conf_high < protected.conf_high


def test_percentage_bend_of_wilcoxs_software() -> None:
    """Wilcox's Rallfun-v45 on two short lists; with seven rows the scale is the 5th, not the 6th,
    distance from the median (floor of 0.8 n).
    """
    x, y = np.arange(1.0, 11), np.array([2.0, 4, 5, 9, 10, 13, 14, 17, 18, 21])
    found = estimate_correlation(x, y, "percentage_bend")
    assert found.estimate == pytest.approx(0.9947292172, abs=1e-9)
    # both columns bend to -1, -1, -1/2, 0, 1/2, 1, 1
    x, y = np.array([-3.0, -2, -1, 0, 1, 2, 30]), np.array([2.0, 1, 3, 4, 5, 7, 6])
    assert estimate_correlation(x, y, "percentage_bend").estimate == pytest.approx(1.0)


def test_fisher_z_synthesis() -> None:
    z = np.arctanh(np.array(published.MOLLOY_R))
    variance = 1 / (np.array(published.MOLLOY_N) - 3.0)
    found = synthesize(z, variance)
    assert found.z == pytest.approx(0.1499, abs=5e-5)
    assert found.wald_std_error == pytest.approx(0.0316, abs=5e-5)
    assert found.tau_squared == pytest.approx(0.0081, abs=5e-5)
    assert found.i_squared == pytest.approx(0.6173, abs=5e-5)
    assert found.q_statistic == pytest.approx(38.1595, abs=5e-4)
    assert found.q_p_value == pytest.approx(0.0009, abs=5e-5)


def test_benjamini_hochberg_rejects_four() -> None:
    adjusted = [q for q in adjust(published.BENJAMINI_HOCHBERG) if q is not None]
    assert sum(q <= 0.05 for q in adjusted) == 4
    # R: p.adjust(p, "BH")
    assert adjusted[:5] == pytest.approx([0.0015, 0.003, 0.0095, 0.035625, 0.0603], abs=1e-6)


def test_sleep_study() -> None:
    sample = select_pair(published.SLEEP, "days", "reaction", family="subject")
    fit = mixed_model(sample, center=False)
    terms = {term.term: term for term in fit.terms}
    assert not fit.singular
    assert terms["slope"].estimate == pytest.approx(10.467, abs=1e-3)
    assert terms["slope"].std_error == pytest.approx(1.546, abs=1e-3)
    assert terms["intercept"].estimate == pytest.approx(251.405, abs=1e-3)
    assert terms["intercept"].std_error == pytest.approx(6.825, abs=1e-3)
    assert terms["sd_intercept"].estimate == pytest.approx(24.741, abs=0.01)
    assert terms["sd_slope"].estimate == pytest.approx(5.922, abs=0.005)
    assert terms["sd_residual"].estimate == pytest.approx(25.592, abs=0.002)


def test_partial_correlation_of_mtcars() -> None:
    mpg, hp, wt = (published.MTCARS[c].to_numpy().astype(float) for c in ("mpg", "hp", "wt"))
    found = partial_correlation(mpg, hp, wt[:, None])
    assert found.estimate == pytest.approx(-3.519 / math.sqrt(3.519**2 + 29), abs=2e-4)
    # the t value's own p-value in R's summary: 0.00145
    assert found.p_value == pytest.approx(0.00145, abs=5e-6)
