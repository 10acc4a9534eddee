"""Sign errors of a metric as a ranking, environment by environment (Dziugaite et al. 2020)."""

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
_MIN_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class SignErrors:
    """Sign error of every environment of enough effective pairs, and summaries over them.

    num_left_out: environments with too few effective pairs.
    """

    environments: pl.DataFrame
    mean: Estimate
    percentile_90: Estimate
    maximum: Estimate
    num_left_out: int = 0


def sign_errors(
    df: pl.DataFrame,
    metric: str,
    outcome: str,
    *,
    environments: Sequence[str] = (),
    hyperparameters: Sequence[str] = (),
    num_test_samples: int | None = None,
    min_effective_pairs: float = 12.0,
) -> SignErrors:
    """Weighted share of pairs that the metric orders against the outcome, in each environment.

    SE = 1/2 sum w (1 - sign(d metric) sign(d outcome)) / sum w over pairs: 0 is a perfect ranking,
    1/2 chance, 1 a reversed one. An environment is two settings of the hyperparameters that differ
    in one of them and agree in all others; its pairs are those of a trial (seed) of the one with a
    trial of the other, so columns that number replicates are not hyperparameters. With
    `environments` the pairs are those inside each group of equal values of these columns instead.
    With `num_test_samples` n the weight of a pair is (max(0, 1 - 2 exp(-n d^2/2))^2 - 1/2)_+, d
    the difference of the outcome (an error rate or gap in [0, 1] estimated on n samples), so that
    pairs whose order is noise do not count; without it all pairs count alike. Environments with an
    effective number of pairs (sum w)^2 / sum w^2 below `min_effective_pairs` are left out. A
    hyperparameter of more than 32 values was sampled, not set on a grid, and makes no environment.
    Mean, 90th percentile and maximum are over environments. Results are null, with the reason,
    when no environment remains. Source: Dziugaite et al. 2020, section 5, and its published code.
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
    found: list[Environment] = []
    if not reason:
        table, x, y = df.filter(pl.Series(usable)), x[usable], y[usable]
        source = (
            _group_sums(table, environments, x, y, num_test_samples)
            if environments
            else _axis_sums(table, hyperparameters, x, y, num_test_samples)
        )
        found = list(source)
    return _summarised(found, int(usable.sum()), reason, min_effective_pairs)


def _summarised(
    found: Sequence[Environment], num_trials: int, reason: str | None, least: float
) -> SignErrors:
    """Mean, 90th percentile and maximum over the environments of enough effective pairs."""
    kept = [e for e in found if e.effective_pairs >= least - 1e-9]
    schema = {"environment": pl.String, "estimate": pl.Float64, "num_pairs": pl.Int64}
    rows = [(e.name, e.wrong / e.total, e.pairs) for e in kept]
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    left_out = len(found) - len(kept)
    if kept:
        # the published code sees every environment in both directions, which moves the percentile
        values = np.repeat(frame["estimate"].to_numpy(), 2)
        note = f"{left_out} environments of too few effective pairs left out" if left_out else None
        mean, high, top = (
            Estimate(estimate=float(v), num_trials=num_trials, reason=note)
            for v in (values.mean(), np.percentile(values, 90), values.max())
        )
    else:
        mean = high = top = null_estimate(
            reason or _nothing_left(found, least), num_trials=num_trials
        )
    return SignErrors(
        environments=frame, mean=mean, percentile_90=high, maximum=top, num_left_out=left_out
    )


def _nothing_left(found: Sequence[Environment], least: float) -> str:
    if not found:
        return "no two settings of the hyperparameters differ in one of them alone"
    most = max(e.effective_pairs for e in found)
    return (
        f"{len(found)} environments, none with {least:g} effective pairs (at most {most:.1f}); "
        "more seeds of each setting give more pairs"
    )


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Sums of one environment over its pairs: weight ordered wrongly, weight, its square, count."""

    name: str
    wrong: float
    total: float
    squares: float
    pairs: int

    @property
    def effective_pairs(self) -> float:
        """(sum w)^2 / sum w^2, the number of equally weighted pairs that say as much."""
        return self.total**2 / self.squares if self.squares > 0 else 0.0


def _group_sums(
    df: pl.DataFrame, environments: Sequence[str], x: Floats, y: Floats, samples: int | None
) -> Iterator[Environment]:
    keys = df.select(
        pl.concat_str([pl.col(c).cast(pl.String) for c in environments], separator=", ")
    )
    groups = keys.to_series().fill_null("missing")
    for name in sorted(groups.unique()):
        rows = np.flatnonzero((groups == name).to_numpy())
        wrong, total, squares = _all_pairs(x[rows], y[rows], samples)
        yield Environment(
            name=str(name),
            wrong=wrong,
            total=total,
            squares=squares,
            pairs=len(rows) * (len(rows) - 1) // 2,
        )


def _all_pairs(x: Floats, y: Floats, samples: int | None) -> tuple[float, float, float]:
    """Weight of the wrongly ordered pairs (ties half), of all pairs, and its sum of squares."""
    order = np.argsort(y, kind="stable")
    y = y[order]
    rank = np.unique(x[order], return_inverse=True)[1].astype(np.int32)
    wrong = total = squares = 0.0
    for begin in range(0, len(y), _BLOCK):
        end = min(begin + _BLOCK, len(y))
        gap = y[begin:] - y[begin:end, None]
        weight = pair_weight(gap, samples)
        weight[:, : end - begin] = np.triu(weight[:, : end - begin], k=1)
        left, right = rank[begin:end, None], rank[None, begin:]
        tied = (left == right) | (gap == 0)
        wrong += float(weight[(left > right) & ~tied].sum()) + float(weight[tied].sum()) / 2
        total += float(weight.sum())
        squares += float((weight**2).sum())
    return wrong, total, squares


def _axis_sums(
    df: pl.DataFrame, hyperparameters: Sequence[str], x: Floats, y: Floats, samples: int | None
) -> Iterator[Environment]:
    """Environments along each hyperparameter, all others fixed."""
    codes, sizes = grid_codes(df, hyperparameters)
    shown = [df[name].cast(pl.String).to_list() for name in hyperparameters]
    for axis, size in enumerate(sizes):
        if size > _MAX_VALUES:
            continue
        others = [k for k in range(len(sizes)) if k != axis]
        setting = _joint([codes[k] for k in others], len(x))
        sums: dict[int, np.ndarray] = {}
        where: dict[int, tuple[int, int]] = {}
        for one, two in _neighbours(setting, codes[axis]):
            swap = codes[axis][one] > codes[axis][two]
            left, right = np.where(swap, two, one), np.where(swap, one, two)
            key = (setting[left] * size + codes[axis][left]) * size + codes[axis][right]
            gap = y[left] - y[right]
            weight = pair_weight(np.abs(gap), samples)
            disagree = (1 - np.sign(x[left] - x[right]) * np.sign(gap)) / 2
            keys, first, place = np.unique(key, return_index=True, return_inverse=True)
            parts = (weight * disagree, weight, weight**2, np.ones_like(weight))
            table = np.stack([np.bincount(place, weights=part) for part in parts], axis=1)
            for code, at, line in zip(keys.tolist(), first.tolist(), table, strict=True):
                sums[code] = sums.get(code, np.zeros(4)) + line
                where.setdefault(code, (int(left[at]), int(right[at])))
        for code, (wrong, total, squares, pairs) in sorted(sums.items()):
            low, high = where[code]
            fixed = ", ".join(f"{hyperparameters[k]} {shown[k][low]}" for k in others)
            name = f"{hyperparameters[axis]}: {shown[axis][low]} against {shown[axis][high]}"
            yield Environment(
                name=f"{name} at {fixed}" if fixed else name,
                wrong=float(wrong),
                total=float(total),
                squares=float(squares),
                pairs=int(pairs),
            )


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


def hoeffding_weight(gap: Floats, num_test_samples: int) -> Floats:
    """Probability, by Hoeffding's inequality, that a difference of two rates has the right sign."""
    return np.maximum(0.0, 1 - 2 * np.exp(-num_test_samples * gap**2 / 2)) ** 2


def pair_weight(gap: Floats, num_test_samples: int | None) -> Floats:
    """Weight of pairs with outcomes `gap` >= 0 apart: what Hoeffding's exceeds 1/2 by, or 1."""
    if num_test_samples is None:
        return np.ones_like(gap)
    return np.maximum(0.0, hoeffding_weight(gap, num_test_samples) - _MIN_WEIGHT)
