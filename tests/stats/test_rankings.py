"""Granulated Kendall, conditional information and sign errors against plain loops over pairs."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import polars as pl
import pytest

from flatscale.errors import StatsError
from flatscale.stats import conditional_information, granulated_kendall, sign_errors

GRID = {"depth": 3, "width": 4, "seed": 2}


def grid_table(seed: int, *, ties: bool = False) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    cells = list(itertools.product(*(range(size) for size in GRID.values())))
    y = np.array([0.3 * d + 0.1 * w for d, w, _ in cells]) + 0.3 * rng.standard_normal(len(cells))
    x = y + 0.3 * rng.standard_normal(len(cells))
    if ties:
        x, y = np.round(x, 1), np.round(y, 1)
    columns = dict(zip(GRID, zip(*cells, strict=True), strict=True))
    table = pl.DataFrame({**columns, "metric": x, "outcome": y})
    return table.sample(fraction=1.0, shuffle=True, seed=seed)


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


@pytest.mark.parametrize("ties", [False, True])
def test_granulated_kendall_is_the_double_loop(ties: bool) -> None:
    table = grid_table(1, ties=ties)
    found = granulated_kendall(table, "metric", "outcome", list(GRID))
    rows = table.to_dicts()
    for axis in GRID:
        others = [name for name in GRID if name != axis]
        taus = []
        for setting in {tuple(row[name] for name in others) for row in rows}:
            group = [row for row in rows if tuple(row[name] for name in others) == setting]
            signs = [
                sign(a["metric"] - b["metric"]) * sign(a["outcome"] - b["outcome"])
                for a, b in itertools.permutations(group, 2)
            ]
            taus.append(sum(signs) / len(signs))
        assert found.psi[axis].estimate == pytest.approx(sum(taus) / len(taus))
    psi = [found.psi[axis].estimate for axis in GRID]
    assert found.mean.estimate == pytest.approx(np.mean(psi))


def information_by_loops(table: pl.DataFrame, chosen: tuple[str, ...]) -> float:
    rows = table.to_dicts()
    joint: Counter = Counter()
    for a, b in itertools.permutations(rows, 2):
        setting = tuple((a[name], b[name]) for name in chosen)
        joint[sign(a["metric"] - b["metric"]), sign(a["outcome"] - b["outcome"]), setting] += 1
    total = sum(joint.values())
    metric, outcome, setting = Counter(), Counter(), Counter()
    for (m, o, s), count in joint.items():
        metric[m, s] += count
        outcome[o, s] += count
        setting[s] += count
    information = sum(
        c / total * math.log(c * setting[s] / (metric[m, s] * outcome[o, s]))
        for (m, o, s), c in joint.items()
    )
    entropy = -sum(c / total * math.log(c / setting[s]) for (_, s), c in outcome.items())
    return information / entropy


@pytest.mark.parametrize("ties", [False, True])
def test_conditional_information_is_the_double_loop(ties: bool) -> None:
    table = grid_table(2, ties=ties)
    found = conditional_information(table, "metric", "outcome", list(GRID))
    assert len(found.by_set) == 1 + 3 + 3
    for chosen, estimate in found.by_set.items():
        assert estimate.estimate == pytest.approx(information_by_loops(table, chosen), abs=1e-12)
    assert found.minimum.estimate == min(e.estimate for e in found.by_set.values())


def test_information_of_a_perfect_and_of_an_unrelated_metric() -> None:
    table = grid_table(3)
    same = table.with_columns(metric=pl.col("outcome"))
    perfect = conditional_information(same, "metric", "outcome", ["depth"]).minimum
    assert perfect.estimate == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    noise = pl.DataFrame(
        {"h": np.repeat(range(4), 100), "seed": list(range(100)) * 4, "metric": rng.random(400)}
    ).with_columns(outcome=pl.Series(rng.random(400)))
    found = conditional_information(noise, "metric", "outcome", ["h", "seed"])
    assert found.by_set[()].estimate == pytest.approx(0.0, abs=0.01)


def test_a_confounder_explains_the_association_away() -> None:
    rng = np.random.default_rng(4)
    level = np.repeat(np.arange(5.0), 40)
    table = pl.DataFrame(
        {
            "lr": level,
            "seed": list(range(40)) * 5,
            "metric": level + 0.1 * rng.standard_normal(200),
            "outcome": level + 0.1 * rng.standard_normal(200),
        }
    )
    found = conditional_information(table, "metric", "outcome", ["lr", "seed"])
    assert found.by_set[()].estimate > 0.5
    assert found.by_set["lr",].estimate < 0.05
    psi = granulated_kendall(table, "metric", "outcome", ["lr", "seed"]).psi
    assert psi["lr"].estimate == pytest.approx(1.0)
    assert abs(psi["seed"].estimate) < 0.1


def pair_weight_by_hand(gap: float, samples: int | None) -> float:
    if samples is None:
        return 1.0
    hoeffding = max(0.0, 1 - 2 * math.exp(-2 * samples * (abs(gap) / 2) ** 2)) ** 2
    return max(0.0, hoeffding - 0.5)


def sign_error_by_loops(pairs: list, samples: int | None) -> tuple[float, float]:
    """Sign error and effective number of pairs of one environment."""
    wrong = total = squares = 0.0
    for a, b in pairs:
        gap = a["outcome"] - b["outcome"]
        weight = pair_weight_by_hand(gap, samples)
        total += weight
        squares += weight**2
        wrong += weight * (1 - sign(a["metric"] - b["metric"]) * sign(gap)) / 2
    return wrong / total, total**2 / squares


@pytest.mark.parametrize("samples", [None, 600, 10_000])
@pytest.mark.parametrize("ties", [False, True])
def test_sign_errors_in_groups_are_the_double_loop(samples: int | None, ties: bool) -> None:
    table = grid_table(5, ties=ties).with_columns(outcome=pl.col("outcome") / 4)
    found = sign_errors(
        table,
        "metric",
        "outcome",
        environments=["depth"],
        num_test_samples=samples,
        min_effective_pairs=1,
    )
    rows = table.to_dicts()
    expected = []
    for depth in range(GRID["depth"]):
        group = [row for row in rows if row["depth"] == depth]
        expected.append(sign_error_by_loops(list(itertools.combinations(group, 2)), samples)[0])
    assert found.environments["estimate"].to_list() == pytest.approx(expected)
    assert found.mean.estimate == pytest.approx(np.mean(expected))
    assert found.maximum.estimate == pytest.approx(max(expected))
    assert found.percentile_90.estimate == pytest.approx(np.percentile(expected * 2, 90))


@pytest.mark.parametrize("samples", [None, 4000])
@pytest.mark.parametrize("least", [0.5, 12.0])
def test_sign_errors_along_axes_are_the_double_loop(samples: int | None, least: float) -> None:
    table = pl.concat([grid_table(seed).with_columns(seed=seed) for seed in range(6, 10)])
    table = table.with_columns(outcome=pl.col("outcome") / 20)
    found = sign_errors(
        table,
        "metric",
        "outcome",
        hyperparameters=["depth", "width"],
        num_test_samples=samples,
        min_effective_pairs=least,
    )
    rows = table.to_dicts()
    expected, left_out = [], 0
    settings = sorted({(row["depth"], row["width"]) for row in rows})
    for one, two in itertools.combinations(settings, 2):
        if (one[0] != two[0]) + (one[1] != two[1]) != 1:
            continue
        pairs = [
            (a, b)
            for a, b in itertools.product(rows, rows)
            if (a["depth"], a["width"]) == one and (b["depth"], b["width"]) == two
        ]
        error, effective = sign_error_by_loops(pairs, samples)
        if effective >= least:
            expected.append(error)
        left_out += effective < least
    assert len(expected) > 5
    assert sorted(found.environments["estimate"]) == pytest.approx(sorted(expected))
    assert found.num_left_out == left_out
    assert found.mean.estimate == pytest.approx(np.mean(expected))


def wrong_at(width: int, seeds: int = 4) -> pl.DataFrame:
    """The metric orders depths as the outcome does, but the other way round at one width."""
    rows = [
        {
            "depth": depth,
            "width": w,
            "outcome": depth / 10 + seed / 1000,
            "metric": (-1 if w == width else 1) * depth + 100 * w,
        }
        for depth in range(3)
        for w in range(4)
        for seed in range(seeds)
    ]
    return pl.DataFrame(rows)


def test_a_measure_wrong_in_one_setting_has_the_largest_sign_error() -> None:
    found = sign_errors(wrong_at(2), "metric", "outcome", hyperparameters=["depth", "width"])
    errors = dict(
        zip(found.environments["environment"], found.environments["estimate"], strict=True)
    )
    assert errors["depth: 0 against 2 at width 2"] == 1.0
    assert errors["depth: 0 against 2 at width 1"] == 0.0
    assert found.maximum.estimate == 1.0
    depths = [value for name, value in errors.items() if name.startswith("depth")]
    assert len(depths) == 3 * 4
    assert np.mean(depths) == pytest.approx(1 / 4)


def test_an_environment_of_few_seeds_is_left_out_with_the_reason() -> None:
    found = sign_errors(wrong_at(2, seeds=3), "metric", "outcome", hyperparameters=["depth"])
    assert found.mean.estimate is not None
    few = sign_errors(wrong_at(2, seeds=3), "metric", "outcome", hyperparameters=["depth", "width"])
    assert few.mean.estimate is None
    assert "none with 12 effective pairs (at most 9.0)" in str(few.mean.reason)
    assert few.num_left_out == 3 * 4 + 6 * 3


def test_effective_pairs_count_weights() -> None:
    """Four of 16 pairs carry weight: the others' outcomes are too close for 100 test samples."""
    table = pl.DataFrame(
        {
            "h": [0] * 4 + [1] * 4,
            "metric": [0.0] * 4 + [1.0] * 4,
            "outcome": [0.5] * 4 + [0.51, 0.51, 0.51, 0.9],
        }
    )
    assert pair_weight_by_hand(0.01, 100) == 0
    kept = sign_errors(
        table,
        "metric",
        "outcome",
        hyperparameters=["h"],
        num_test_samples=100,
        min_effective_pairs=4,
    )
    assert kept.mean.estimate == 0.0
    dropped = sign_errors(
        table,
        "metric",
        "outcome",
        hyperparameters=["h"],
        num_test_samples=100,
        min_effective_pairs=4.01,
    )
    assert "at most 4.0" in str(dropped.mean.reason)


def test_many_pairs_in_blocks_are_all_counted() -> None:
    rng = np.random.default_rng(7)
    y = rng.random(2500)
    table = pl.DataFrame({"metric": y + rng.random(2500), "outcome": y, "all": [1] * 2500})
    found = sign_errors(table, "metric", "outcome", environments=["all"])
    i, j = np.triu_indices(2500, k=1)
    x = table["metric"].to_numpy()
    assert found.mean.estimate == pytest.approx(np.mean((x[i] - x[j]) * (y[i] - y[j]) < 0))


def test_a_broken_grid_is_null_with_its_reason() -> None:
    table = grid_table(8).head(20)
    for found in (
        granulated_kendall(table, "metric", "outcome", list(GRID)).mean,
        conditional_information(table, "metric", "outcome", list(GRID)).minimum,
    ):
        assert found.estimate is None
        assert "20 of 24 combinations" in str(found.reason)


def test_repeated_trials_of_a_cell_are_compared_across_cells() -> None:
    table = grid_table(11)
    found = granulated_kendall(table, "metric", "outcome", ["depth", "width"])
    taus = []
    for width in range(GRID["width"]):
        group = table.filter(pl.col("width") == width).to_dicts()
        signs = [
            sign(a["metric"] - b["metric"]) * sign(a["outcome"] - b["outcome"])
            for a, b in itertools.combinations(group, 2)
            if a["depth"] != b["depth"]
        ]
        taus.append(np.mean(signs))
    assert found.psi["depth"].estimate == pytest.approx(np.mean(taus))


def test_weights_need_a_rate() -> None:
    table = grid_table(9).with_columns(outcome=pl.col("outcome") * 100)
    with pytest.raises(StatsError, match="divide percentages by 100"):
        sign_errors(table, "metric", "outcome", environments=["depth"], num_test_samples=1000)


def test_sampled_hyperparameters_make_no_environments() -> None:
    rng = np.random.default_rng(10)
    table = pl.DataFrame({name: rng.random(50) for name in ("lr", "metric", "outcome")})
    found = sign_errors(table, "metric", "outcome", hyperparameters=["lr"])
    assert found.mean.estimate is None
    assert found.mean.reason
