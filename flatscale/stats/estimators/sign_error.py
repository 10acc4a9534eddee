"""Sign errors of a metric as a ranking of trials, environment by environment (Dziugaite et al.
2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from flatscale.errors import StatsError
from flatscale.stats.estimators.granulated import grid_codes
from flatscale.stats.findings import Estimate, null_estimate
from flatscale.stats.sample import Floats, Ints, find_problem, numeric_column, require_columns

_BLOCK = 1000
_MAX_PAIRS = 4_000_000
_MAX_VALUES = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class SignErrors:
    """Sign error of every environment with pairs of positive weight, and summaries over them."""

    environments: pl.DataFrame
    mean: Estimate
    percentile_90: Estimate
    maximum: Estimate


def sign_errors(
    df: pl.DataFrame,
    metric: str,
    outcome: str,
    *,
    environments: Sequence[str] = (),
    hyperparameters: Sequence[str] = (),
    num_test_samples: int | None = None,
) -> SignErrors:
    """Weighted share of pairs that the metric orders against the outcome, in each environment.

    SE = 1/2 sum w (1 - sign(d metric) sign(d outcome)) / sum w over unordered pairs: 0 is a
    perfect ranking, 1/2 chance. With `num_test_samples` n the weight is max(0, 1 - 2 exp(-n
    d^2/2))^2, d the difference of the outcome (an error rate or gap in [0, 1] estimated on n
    samples), so that pairs whose order is noise do not count; without it all pairs count alike.
    With `environments` the pairs are those inside each group of equal values of these columns;
    else, for each pair of values of each of `hyperparameters`, the trials that differ in it
    alone (a hyperparameter of more than 32 values was sampled, not set on a grid, and makes no
    environment). Results are null, with the reason, when neither is given.
    """
    require_columns(df, [metric, outcome, *environments, *hyperparameters])
    x, y = numeric_column(df, metric), numeric_column(df, outcome)
    usable = np.isfinite(x) & np.isfinite(y)
    reason = find_problem(x[usable], y[usable], metric, outcome)
    if not reason and not environments and not hyperparameters:
        reason = "neither environments nor hyperparameters are declared"
    if not reason and num_test_samples is not None and np.max(np.abs(y[usable])) > 1:
        raise StatsError(
            f"weights by the number of test samples need outcome {outcome!r} as a rate within "
            f"[-1, 1], found {np.max(np.abs(y[usable])):g}; divide percentages by 100"
        )
    rows = []
    if not reason:
        table, x, y = df.filter(pl.Series(usable)), x[usable], y[usable]
        source = (
            _group_sums(table, environments, x, y, num_test_samples)
            if environments
            else _axis_sums(table, hyperparameters, x, y, num_test_samples)
        )
        rows = [(name, wrong / total, pairs) for name, wrong, total, pairs in source if total > 0]
    schema = {"environment": pl.String, "estimate": pl.Float64, "num_pairs": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    if not rows:
        null = null_estimate(
            reason or "no environment has a pair of positive weight", num_trials=int(usable.sum())
        )
        return SignErrors(environments=frame, mean=null, percentile_90=null, maximum=null)
    values = frame["estimate"].to_numpy()
    mean, high, top = (
        Estimate(estimate=float(v), num_trials=int(usable.sum()))
        for v in (values.mean(), np.percentile(values, 90), values.max())
    )
    return SignErrors(environments=frame, mean=mean, percentile_90=high, maximum=top)


Sums = tuple[str, float, float, int]


def _group_sums(
    df: pl.DataFrame, environments: Sequence[str], x: Floats, y: Floats, samples: int | None
) -> Iterator[Sums]:
    keys = df.select(
        pl.concat_str([pl.col(c).cast(pl.String) for c in environments], separator=", ")
    )
    groups = keys.to_series().fill_null("missing")
    for name in sorted(groups.unique()):
        rows = np.flatnonzero((groups == name).to_numpy())
        wrong, total = _all_pairs(x[rows], y[rows], samples)
        yield str(name), wrong, total, len(rows) * (len(rows) - 1) // 2


def _all_pairs(x: Floats, y: Floats, samples: int | None) -> tuple[float, float]:
    """Weight of the wrongly ordered pairs (ties half) and of all pairs of one environment."""
    order = np.argsort(y, kind="stable")
    y = y[order]
    rank = np.unique(x[order], return_inverse=True)[1].astype(np.int32)
    wrong = total = 0.0
    for begin in range(0, len(y), _BLOCK):
        end = min(begin + _BLOCK, len(y))
        # from this row on every weight is 1 to double precision, and no exponential is needed
        sure = len(y) if samples is None else int(np.searchsorted(y, y[end - 1] + 9 / samples**0.5))
        for low, high in ((begin, max(end, sure)), (max(end, sure), len(y))):
            if low == high:
                continue
            gap = y[low:high] - y[begin:end, None]
            plain = low > begin
            weight = (
                np.ones_like(gap) if plain or samples is None else hoeffding_weight(gap, samples)
            )
            if not plain:
                weight[:, : end - begin] = np.triu(weight[:, : end - begin], k=1)
            left, right = rank[begin:end, None], rank[None, low:high]
            tied = (left == right) | (gap == 0)
            wrong += float(weight[(left > right) & ~tied].sum()) + float(weight[tied].sum()) / 2
            total += float(weight.sum())
    return wrong, total


def _axis_sums(
    df: pl.DataFrame, hyperparameters: Sequence[str], x: Floats, y: Floats, samples: int | None
) -> Iterator[Sums]:
    codes, sizes = grid_codes(df, hyperparameters)
    for axis, name in enumerate(hyperparameters):
        if sizes[axis] > _MAX_VALUES:
            continue
        values = df[name].unique().sort().drop_nulls().cast(pl.String).to_list()
        setting = _joint([code for k, code in enumerate(codes) if k != axis], len(x))
        sums: dict[int, np.ndarray] = {}
        for left, right in _neighbours(setting, codes[axis]):
            agree, weight = _compare(x[left], x[right], y[left], y[right], samples)
            low = np.minimum(codes[axis][left], codes[axis][right])
            high = np.maximum(codes[axis][left], codes[axis][right])
            pairs, place = np.unique(low * sizes[axis] + high, return_inverse=True)
            parts = (weight * (1 - agree) / 2, weight, np.ones_like(weight))
            table = np.stack([np.bincount(place, weights=part) for part in parts], axis=1)
            for pair, row in zip(pairs.tolist(), table, strict=True):
                sums[pair] = sums.get(pair, np.zeros(3)) + row
        for pair, (wrong, total, count) in sorted(sums.items()):
            low_code, high_code = divmod(pair, sizes[axis])
            label = f"{name}: {values[low_code]} against {values[high_code]}"
            yield label, float(wrong), float(total), int(count)


def _joint(codes: Sequence[Ints], n: int) -> Ints:
    if not codes:
        return np.zeros(n, dtype=np.int64)
    _, joint = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)
    return np.asarray(joint, dtype=np.int64).ravel()


def _neighbours(setting: Ints, values: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of rows with equal settings and different, known values, each pair once, in blocks."""
    order = np.argsort(setting, kind="stable")
    ends = np.searchsorted(setting[order], setting[order], side="right")
    after = ends - np.arange(len(order)) - 1
    start = 0
    while start < len(order):
        stop = start + max(1, int(np.searchsorted(np.cumsum(after[start:]), _MAX_PAIRS)))
        count = after[start:stop]
        offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        first = np.repeat(np.arange(start, min(stop, len(order))), count)
        left, right = order[first], order[first + 1 + offset]
        apart = (values[left] != values[right]) & (values[left] >= 0) & (values[right] >= 0)
        yield left[apart], right[apart]
        start = stop


def _compare(
    x1: Floats, x2: Floats, y1: Floats, y2: Floats, samples: int | None
) -> tuple[Floats, Floats]:
    """Product of the signs, and the weight, of every pair."""
    gap = y1 - y2
    agree = np.sign(x1 - x2) * np.sign(gap)
    return agree, np.ones_like(gap) if samples is None else hoeffding_weight(gap, samples)


def hoeffding_weight(gap: Floats, num_test_samples: int) -> Floats:
    """Probability, by Hoeffding's inequality, that a difference of two rates has the right sign."""
    return np.maximum(0.0, 1 - 2 * np.exp(-num_test_samples * gap**2 / 2)) ** 2
