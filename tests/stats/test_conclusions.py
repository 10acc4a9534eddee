"""What is concluded beyond an interval: equivalence, required numbers, controls, skew."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flatscale.stats import Estimate, family_jackknife, within_family
from flatscale.stats.estimators.equivalence import equivalence
from flatscale.stats.estimators.negative_controls import RANDOM, negative_controls
from flatscale.stats.estimators.required_number import required_number, variance_of_levels
from flatscale.stats.estimators.skewness import skew_warning, skewness
from tests.calibration.correlation_rows import plain, replicated
from tests.calibration.harness import Simulated


def test_equivalence_is_the_interval_inside_the_bounds() -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(40):
        sample = plain(rng).sample()
        narrow = within_family(sample, confidence=0.90)
        inside = narrow.conf_low > -0.2 and narrow.conf_high < 0.2
        found = equivalence(within_family(sample), bound=0.2)
        assert (found.p_value <= 0.05) == inside
        seen.add(inside)
    assert seen == {True, False}


def test_equivalence_by_hand_and_its_refusals() -> None:
    known = Estimate(estimate=0.0, std_error=0.1, p_value=1.0)
    edge = math.atanh(0.2) / 0.1
    assert equivalence(known).p_value == pytest.approx(0.5 * math.erfc(edge / math.sqrt(2)))
    null = equivalence(Estimate(estimate=None, reason="x is constant"))
    assert null.p_value is None
    assert null.reason == "x is constant"
    two = family_jackknife(replicated(2, 16, 2)(np.random.default_rng(0)).sample())
    assert equivalence(two).p_value is None
    with pytest.raises(ValueError, match="between 0 and 1"):
        equivalence(known, bound=1.5)


def test_variance_components_are_recovered() -> None:
    rng = np.random.default_rng(2)
    family = np.repeat(np.arange(300), 24)
    configuration = np.arange(300 * 24) // 3
    values = 3 * rng.standard_normal(300)[family] + 2 * rng.standard_normal(2400)[configuration]
    values += rng.standard_normal(len(values))
    # a fifth of the rows gone: no longer balanced
    kept = rng.random(len(values)) < 0.8
    configuration = np.unique(configuration[kept], return_inverse=True)[1]
    found = variance_of_levels(values[kept], family[kept], configuration)
    assert found == pytest.approx((9, 4, 1), rel=0.15)


def test_a_study_of_the_required_size_has_the_wanted_interval() -> None:
    pilot = replicated(1, 200, 3)(np.random.default_rng(3)).sample()
    wanted = required_number(pilot, half_width=0.3)
    assert wanted.families is None
    assert wanted.now < 0.3
    assert 5 <= wanted.configurations < 200
    widths = []
    for seed in range(60):
        study = replicated(1, wanted.configurations, 3)(np.random.default_rng(seed)).sample()
        found = family_jackknife(study)
        widths.append((found.conf_high - found.conf_low) / 2)
    assert np.mean(widths) == pytest.approx(0.3, abs=0.04)


def test_seeds_alone_cannot_replace_configurations() -> None:
    pilot = replicated(1, 9, 5)(np.random.default_rng(4)).sample()
    wanted = required_number(pilot, half_width=0.1)
    assert wanted.seeds is None
    assert wanted.configurations > 50
    many = required_number(replicated(12, 6, 3)(np.random.default_rng(5)).sample())
    assert many.families > 12
    few = required_number(replicated(1, 3, 2)(np.random.default_rng(6)).sample())
    assert few.configurations is None
    assert "too few for a pilot" in few.reason


def test_controls_keep_the_levels_and_lose_the_relation() -> None:
    table = replicated(3, 8, 4, r=0.9)(np.random.default_rng(7))
    made = negative_controls(
        {"x": table.x}, family=table.family, configuration=table.configuration, seed=1
    )
    shuffled = made["control: shuffled x"]
    assert sorted(shuffled) == sorted(table.x)
    for code in range(3):
        rows = table.family == code
        assert sorted(shuffled[rows]) == sorted(table.x[rows])
    # the seeds of one configuration stay together
    for code in range(24):
        moved = shuffled[table.configuration == code]
        homes = {int(table.configuration[np.flatnonzero(table.x == v)[0]]) for v in moved}
        assert len(homes) == 1
    assert abs(np.corrcoef(made[RANDOM], table.x)[0, 1]) < 0.5


def test_controls_win_as_often_as_they_may() -> None:
    wins = 0
    for seed in range(200):
        table = replicated(1, 12, 3, r=0.9)(np.random.default_rng(seed))
        made = negative_controls(
            {"x": table.x}, family=table.family, configuration=table.configuration, seed=seed
        )
        control = Simulated(
            x=made["control: shuffled x"],
            y=table.y,
            family=table.family,
            configuration=table.configuration,
        )
        wins += within_family(control.sample()).p_value <= 0.05
    assert 2 <= wins <= 20


def test_skew_is_said_with_the_scale() -> None:
    normal = np.random.default_rng(8).standard_normal(300)
    assert skew_warning(normal, "x", logged=False) is None
    assert skew_warning(normal, "x", logged=True) is None
    raw = skew_warning(np.exp(normal), "x", logged=False)
    assert "x is skewed on the raw scale declared" in raw
    assert "declare `log` for it" in raw
    still = skew_warning(np.exp(normal), "x", logged=True)
    assert "in logarithms, the scale declared" in still
    assert "declare" not in still.replace("declared", "")
    assert skewness(np.ones(5)) is None
    assert skewness(np.array([1e308, 1e307, 1.0, 0.0])) > 0
