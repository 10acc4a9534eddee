"""Levels of replication: which units are used, and intervals over them against brute force."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import stats

from flatscale.stats import (
    Sample,
    StudyDesign,
    analyze,
    analyze_study,
    compare_metrics,
    family_jackknife,
    partial_correlation,
    per_family,
    permutation_within,
    within_family,
)
from flatscale.stats.estimators.replication import (
    choose_units,
    effective_degrees,
    left_out_products,
    pearson_of_products,
)
from flatscale.stats.estimators.sign_reversal import sign_reversal
from tests.calibration.correlation_rows import replicated
from tests.calibration.harness import Simulated


def within_r(x: np.ndarray, y: np.ndarray, family: np.ndarray) -> float:
    x, y = x.copy(), y.copy()
    for code in np.unique(family):
        rows = family == code
        x[rows] -= x[rows].mean()
        y[rows] -= y[rows].mean()
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def made(families: int, configurations: int, seeds: int, seed: int = 0, r: float = 0.5) -> Sample:
    table = replicated(families, configurations, seeds, r=r)(np.random.default_rng(seed))
    return table.sample()


@pytest.mark.parametrize(
    ("design", "level", "count"),
    [
        ((5, 4, 3), "families", 5),
        ((4, 4, 3), "configurations", 16),
        ((1, 9, 5), "configurations", 9),
        ((3, 8, 1), "rows", 24),
    ],
)
def test_the_highest_level_with_enough_units_is_used(design, level, count) -> None:
    sample = made(*design)
    units = choose_units(sample.num_trials, sample.family, sample.configuration)
    assert (units.level, units.count) == (level, count)
    assert units.num_strata == (design[0] if design[0] < 5 else 1)
    for found in (within_family(sample), family_jackknife(sample)):
        assert (found.units, found.num_units) == (level, count)
        assert found.conf_low < found.estimate < found.conf_high


def test_configurations_of_the_same_name_in_two_families_are_two() -> None:
    sample = made(2, 6, 2)
    named = replace(sample, configuration=sample.configuration % 6)
    assert within_family(named) == within_family(sample)


def test_the_paper_design_of_one_architecture_is_answered() -> None:
    sample = made(1, 9, 5)
    within, pooled = within_family(sample), family_jackknife(sample)
    assert within.estimate == pytest.approx(pooled.estimate)
    assert within.conf_low == pytest.approx(pooled.conf_low)
    assert within.degrees == 7
    z = []
    for code in range(9):
        rest = sample.configuration != code
        z.append(math.atanh(np.corrcoef(sample.x[rest], sample.y[rest])[0, 1]))
    error = math.sqrt(8 / 9 * sum((v - np.mean(z)) ** 2 for v in z))
    assert within.std_error == pytest.approx(error)
    t = math.atanh(within.estimate) / error
    assert within.p_value == pytest.approx(2 * stats.t.sf(abs(t), 7))


def test_a_few_families_have_an_interval_and_no_test_over_families() -> None:
    found = family_jackknife(made(2, 16, 2))
    assert found.conf_low is not None
    assert found.p_value is None
    assert "these 2 families alone" in found.reason


@pytest.mark.parametrize("families", [3, 8])
def test_within_family_by_leaving_out_each_unit(families: int) -> None:
    sample = made(families, 5, 2)
    units = choose_units(sample.num_trials, sample.family, sample.configuration)
    z = []
    for code in range(units.count):
        rest = units.codes != code
        z.append(math.atanh(within_r(sample.x[rest], sample.y[rest], sample.family[rest])))
    found = within_family(sample)
    assert found.estimate == pytest.approx(within_r(sample.x, sample.y, sample.family))
    count = units.count
    error = math.sqrt((count - 1) / count * sum((v - np.mean(z)) ** 2 for v in z))
    assert found.std_error == pytest.approx(error)


def test_left_out_products_are_those_of_the_rest() -> None:
    rng = np.random.default_rng(3)
    base, values = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    units = replace(choose_units(40), codes=np.repeat(np.arange(8), 5))
    _, parts = left_out_products(units, base, values)
    for code in (0, 7):
        rest = units.codes != code
        fitted = base[rest] @ np.linalg.lstsq(base[rest], values[rest], rcond=None)[0]
        residual = values[rest] - fitted
        assert parts[code] == pytest.approx(residual.T @ residual)
        r = pearson_of_products(parts, parts[0])[code]
        assert r == pytest.approx(
            residual[:, 0] @ residual[:, 1] / np.prod(np.linalg.norm(residual, axis=0))
        )


def test_degrees_of_equal_units_and_of_one_that_dominates() -> None:
    assert effective_degrees(np.ones(10)) == pytest.approx(9)
    assert effective_degrees(np.array([1e6, 1, 1, 1, 1, 1])) < 1.1
    # by the definition: h in, the covariance of the units' weighted scores out
    h = np.array([0.4, 0.3, 0.2, 0.1])
    spread = np.diag(h) - np.outer(h, h)
    weight = np.diag(1 / np.sqrt(1 - h))
    matrix = weight @ spread @ weight
    expected = np.trace(matrix) ** 2 / np.trace(matrix @ matrix)
    assert effective_degrees(h) == pytest.approx(expected)
    assert effective_degrees(np.stack([h, np.ones(4)])) == pytest.approx([expected, 3])


def test_the_pooled_interval_knows_how_unequal_its_families_are() -> None:
    equal = made(8, 4, 1)
    x = np.tile([-1.5, -0.5, 0.5, 1.5], 8)
    alike = replace(equal, x=x, y=np.roll(x, 1), configuration=None)
    alike = replace(alike, y=alike.y + 0.1 * np.repeat(np.arange(8) % 2, 4))
    assert family_jackknife(alike).degrees == pytest.approx(7, abs=1e-3)
    far = replace(alike, x=np.where(alike.family == 0, 20 * x, x))
    found, by_rank = family_jackknife(far), family_jackknife(far, "spearman")
    squares = [(v - v.mean()) ** 2 for v in (far.x, far.y)]
    shares = [sum(s[far.family == f].sum() / s.sum() for s in squares) for f in range(8)]
    assert found.degrees == pytest.approx(effective_degrees(np.array(shares)))
    # ranks bound how far off one family can be
    assert found.degrees < 4 < 6 < by_rank.degrees < 7
    t = math.atanh(found.estimate) / found.std_error
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), found.degrees))
    assert (found.conf_low > 0 or found.conf_high < 0) == (found.p_value < 0.05)


def test_one_family_that_dominates_widens_the_interval() -> None:
    rng = np.random.default_rng(4)
    family = np.repeat(np.arange(6), [60, 4, 4, 4, 4, 4])
    x = rng.standard_normal(80)
    table = Simulated(x=x, y=x + rng.standard_normal(80), family=family)
    assert within_family(table.sample()).degrees < 2
    even = replace(table, family=np.arange(80) % 6)
    assert within_family(even.sample()).degrees > 4


def test_partial_over_configurations_holds_few_families_fixed() -> None:
    table = replicated(2, 12, 2, r=0.6)(np.random.default_rng(5))
    assert table.covariates is not None
    units = choose_units(len(table.x), table.family, table.configuration)
    found = partial_correlation(table.x, table.y, table.covariates, units=units)
    base = np.column_stack([np.eye(2)[table.family], table.covariates])
    values = np.column_stack([table.x, table.y])
    residual = values - base @ np.linalg.lstsq(base, values, rcond=None)[0]
    assert found.estimate == pytest.approx(np.corrcoef(residual.T)[0, 1])
    assert (found.units, found.num_units, found.degrees) == ("configurations", 24, 20)
    plain = partial_correlation(table.x, table.y, np.zeros((48, 1)), units=units)
    assert plain.estimate == pytest.approx(within_family(table.sample()).estimate)
    assert plain.conf_low == pytest.approx(within_family(table.sample()).conf_low)


def test_comparison_holds_few_families_fixed() -> None:
    table = replicated(3, 10, 2, r=0.8)(np.random.default_rng(6))
    found = compare_metrics(
        table.x, table.rival, table.y, family=table.family, configuration=table.configuration
    )
    assert found.r_a == pytest.approx(within_r(table.x, table.y, table.family))
    assert found.units == "configurations"
    assert "held fixed" in found.reason
    assert found.conf_low > 0


def test_the_interval_of_a_comparison_agrees_with_its_p_value() -> None:
    verdicts = set()
    for seed in range(12):
        table = replicated(2, 8, 2, r=0.6)(np.random.default_rng(seed))
        found = compare_metrics(
            table.x, table.rival, table.y, family=table.family, configuration=table.configuration
        )
        excludes = found.conf_low > 0 or found.conf_high < 0
        assert excludes == (found.p_value < 0.05)
        verdicts.add(excludes)
    assert verdicts == {True, False}


def test_replicates_do_not_narrow_the_interval_of_one_family() -> None:
    sample = made(1, 9, 5)
    once = per_family(sample)["f0"]
    copies = np.tile(np.arange(sample.num_trials), 4)
    many = Simulated(
        x=sample.x[copies],
        y=sample.y[copies],
        family=np.zeros(len(copies), dtype=int),
        configuration=sample.configuration[copies],
    ).sample()
    again = per_family(many)["f0"]
    assert again.conf_low == pytest.approx(once.conf_low)
    assert again.p_value == pytest.approx(once.p_value)


def reversed_table(families: int, noise: float, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    family = np.repeat(np.arange(families), 10)
    own = rng.standard_normal(len(family))
    effect = 3 * rng.standard_normal(families)[family]
    y = effect - own + noise * rng.standard_normal(len(family))
    return Simulated(x=effect + own, y=y, family=family).sample()


def test_a_reversal_needs_both_signs_and_the_difference() -> None:
    clear = sign_reversal(reversed_table(15, 0.5))
    assert clear.verdict == "established"
    assert clear.within.estimate < 0 < clear.pooled.estimate
    assert clear.difference.conf_high < 0
    assert clear.difference.estimate == pytest.approx(
        math.atanh(clear.within.estimate) - math.atanh(clear.pooled.estimate)
    )
    unsure = sign_reversal(reversed_table(15, 20.0, seed=2))
    assert unsure.within.estimate * unsure.pooled.estimate < 0
    assert unsure.verdict == "not established"
    same = sign_reversal(made(6, 8, 2, r=0.9))
    assert same.verdict == "same sign"


def test_permutation_moves_whole_configurations() -> None:
    rejected = {"configurations": 0, "rows": 0}
    for seed in range(150):
        sample = made(1, 9, 5, seed=seed, r=0.0)
        for level, used in (
            ("configurations", sample),
            ("rows", replace(sample, configuration=None)),
        ):
            found = permutation_within(used, num_resamples=199)
            assert found.units == level
            rejected[level] += found.p_value <= 0.05
    assert rejected["configurations"] <= 16
    assert rejected["rows"] >= 25


def test_permutation_of_unequal_configurations_is_exact() -> None:
    """Two configurations of two rows can change places, the one of three rows cannot."""
    table = Simulated(
        x=np.array([0.0, 0, 1, 1, 5, 5, 5]),
        y=np.array([0.0, 0, 1, 1, 2, 2, 2]),
        family=np.zeros(7, dtype=int),
        configuration=np.array([0, 0, 1, 1, 2, 2, 2]),
    )
    found = permutation_within(table.sample(), num_resamples=2000)
    assert found.num_units == 3
    assert found.p_value == pytest.approx(0.5, abs=0.05)


def test_columns_that_make_a_configuration_are_read_from_the_table() -> None:
    sample = made(2, 6, 3)
    table = pl.DataFrame(
        {
            "x": sample.x,
            "y": sample.y,
            "family": [f"a{code}" for code in sample.family],
            "lr": (sample.configuration % 6) // 2 / 10,
            "batch": sample.configuration % 2,
        }
    )
    found = analyze(table, "x", "y", configuration=["lr", "batch"], num_resamples=99)
    rows = {(row["scope"], row["method"]): row for row in found.to_dicts()}
    within, naive = rows["within", "pearson"], rows["within", "repeated_measures"]
    assert (within["units"], within["num_units"]) == ("configurations", 12)
    assert within["conf_low"] == pytest.approx(within_family(sample).conf_low)
    assert naive["units"] == "rows"
    assert naive["estimate"] == pytest.approx(within["estimate"])
    alone = analyze(table, "x", "y", num_resamples=99)
    assert alone.filter(scope="within", method="pearson")["units"].to_list() == ["rows"]


def test_a_study_says_which_units_and_what_follows() -> None:
    table = replicated(1, 9, 5, r=0.9)(np.random.default_rng(11))
    frame = pl.DataFrame(
        {
            "x": np.exp(table.x),
            "y": table.y,
            "z": table.rival,
            "family": ["vgg"] * 45,
            "lr": table.configuration % 3,
            "batch": table.configuration // 3,
            "seed": np.arange(45) % 5,
            "trial_id": [str(k) for k in range(45)],
        }
    )
    design = StudyDesign(
        primary=("x", "y"),
        outcomes=("z",),
        configuration=("lr", "batch"),
        hyperparameters=("lr", "batch", "seed"),
        num_resamples=99,
    )
    study = analyze_study(frame, design)
    assert study.sign_reversal["verdict"].to_list() == ["same sign"]
    assert study.required_numbers["configurations"].to_list()[1] > 9
    assert "declare `log`" in study.scales.filter(column="x")["warning"][0]
    assert study.scales.filter(column="y")["warning"][0] is None
    assert study.comparisons["units"].to_list() == ["configurations"]
    # the seed numbers replicates: 3 x 3 settings, each pair that differs in one hyperparameter
    assert set(study.sign_errors["num_environments"]) == {18}
    assert set(study.sign_errors["num_pairs"]) == {18 * 25}
    won = study.negative_controls.filter(control="control: random", scope="pooled")
    assert won["draws"].to_list() == [40]
    assert won["wins"][0] <= 8
