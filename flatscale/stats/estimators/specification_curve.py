"""One correlation under many choices, for the rows as they are and for many shuffles at once.

A point of the curve is the Pearson correlation of one x with B columns y: the first is the data's,
the others are shuffles of it. All B are computed together from sums over the independent units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from flatscale.stats.estimators.replication import effective_degrees
from flatscale.stats.sample import Floats, Ints

POOLED, WITHIN, MEAN = "pooled", "within", "synthesis"
_MIN_SIZE = 4
_STEPS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """One specification: z = atanh r of B columns and its test; arrays have shape (B,).

    Attributes:
        z, std_error: NaN where r is undefined or leaving a unit out leaves none.
        p_value: of z = 0; NaN where there is no test.
        degrees: of the t distribution behind it.
    """

    z: Floats
    std_error: Floats
    p_value: Floats
    degrees: Floats

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Interval of the first column's r, or None."""
        if not np.isfinite(self.std_error[0]):
            return None
        half = self.std_error[0] * special.stdtrit(self.degrees[0], 0.5 + confidence / 2)
        return float(np.tanh(self.z[0] - half)), float(np.tanh(self.z[0] + half))


def point_of_jackknife(
    x: Floats,
    y: Floats,
    strata: Ints,
    units: Ints,
    *,
    over_families: bool = False,
    tested: bool = True,
) -> Point:
    """r of x (n,) and y (B, n) inside the strata, with the jackknife over units inside them.

    One stratum is the pooled correlation; strata that are families, the one within families, with
    Bell and McCaffrey's degrees of freedom where the units are the families themselves, as
    for the pooled one where `over_families`. `tested` is false where the interval holds for the
    families at hand alone, and there is no p-value.
    """
    x = _standard(x)
    y = _standard(y)
    order = np.argsort(units, kind="stable")
    starts = np.searchsorted(units[order], np.arange(int(units.max()) + 1))
    stratum = strata[order][starts]
    member = np.eye(int(strata.max()) + 1)[stratum]

    def per_unit(values: Floats) -> Floats:
        return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))

    size = per_unit(np.ones(len(x)))
    sums = {"x": per_unit(x), "y": per_unit(y)}
    crossed = {"xx": per_unit(x * x), "yy": per_unit(y * y), "xy": per_unit(x * y)}

    def scatter(sums_of: Sequence[Floats], count: Floats) -> Floats:
        cross, a, b = sums_of
        return np.where(count > 0.5, cross - a * b / np.maximum(count, 1), 0.0)

    whole: dict[str, Floats] = {}
    without: dict[str, Floats] = {}
    share: dict[str, Floats] = {}
    count = size @ member
    for name, cross in crossed.items():
        a, b = (sums[letter] for letter in name)
        totals = [cross @ member, a @ member, b @ member]
        of_stratum = scatter(totals, count)
        share[name] = of_stratum
        left = [
            total[..., stratum] - part for total, part in zip(totals, (cross, a, b), strict=True)
        ]
        whole[name] = of_stratum.sum(axis=-1)
        change = scatter(left, count[stratum] - size) - of_stratum[..., stratum]
        without[name] = whole[name][..., None] + change
    z, left_out = _fisher(whole), _fisher(without)
    own_strata = len(starts) == member.shape[1] > 1
    if own_strata:
        # a family in which x or y has one value says nothing
        weights = np.sqrt(np.maximum(share["xx"] * share["yy"], 0))
        speaking = weights[0] > 1e-12 * weights[0].max()
        left_out = left_out[:, speaking]
        degrees = effective_degrees(weights[:, speaking])
    elif member.shape[1] > 1:
        degrees = np.full(len(y), len(starts) - member.shape[1] - 1.0)
    elif over_families:
        weights = sum(
            crossed[name] / crossed[name].sum(axis=-1, keepdims=True) for name in ("xx", "yy")
        )
        degrees = effective_degrees(weights)
    else:
        degrees = np.full(len(y), len(starts) - 2.0)
    return _tested(z, left_out, degrees, tested=tested)


def point_of_synthesis(x: Floats, y: Floats, family: Ints) -> Point:
    """Random-effects mean over families of z = atanh r for y (B, n): REML, Hartung-Knapp.

    Families of at least 4 rows in which neither x nor y is constant count, those of the first
    column for all. tau^2 by Fisher scoring on all columns at once.
    """
    codes = range(int(family.max()) + 1)
    inside = [np.flatnonzero(family == code) for code in codes]
    values = []
    sizes = []
    for rows in inside:
        if len(rows) < _MIN_SIZE:
            continue
        a = x[rows] - x[rows].mean()
        b = y[:, rows] - y[:, rows].mean(axis=1, keepdims=True)
        scale = np.sqrt((a @ a) * np.sum(b * b, axis=1))
        if not scale[0] > 1e-12 * max(1.0, float(scale.max())):
            continue
        r = np.divide(b @ a, scale, out=np.zeros(len(y)), where=scale > 0)
        if abs(r[0]) < 1 - 1e-12:
            values.append(np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)))
            sizes.append(len(rows))
    empty = np.full(len(y), np.nan)
    if len(values) < 2:
        return Point(z=empty, std_error=empty, p_value=empty, degrees=empty)
    z, variance = np.stack(values, axis=1), 1 / (np.array(sizes) - 3.0)
    tau_squared = np.var(z, axis=1, ddof=1)
    for _ in range(_STEPS):
        w = 1 / (variance + tau_squared[:, None])
        total, second = w.sum(axis=1), (w**2).sum(axis=1)
        rest = z - (np.sum(w * z, axis=1) / total)[:, None]
        score = np.sum((w * rest) ** 2, axis=1) - total + second / total
        known = second - 2 * (w**3).sum(axis=1) / total + (second / total) ** 2
        tau_squared = np.maximum(0.0, tau_squared + score / known)
    w = 1 / (variance + tau_squared[:, None])
    total = w.sum(axis=1)
    mean = np.sum(w * z, axis=1) / total
    degrees = z.shape[1] - 1.0
    error = np.sqrt(np.sum(w * (z - mean[:, None]) ** 2, axis=1) / degrees / total)
    point = Point(z=mean, std_error=error, p_value=empty, degrees=empty)
    return _retested(point, np.full(len(y), degrees))


@dataclass(frozen=True, kw_only=True)
class CurveTest:
    """The curve as a whole, over the S specifications with an estimate.

    Attributes:
        median: median r over specifications.
        num_positive, num_negative: specifications of each sign.
        num_significant: specifications of the commoner sign with p <= alpha; `num_tested` those
            with a p-value.
        p_median, p_sign, p_significant: share of shuffles, and of the data, whose |median z|,
            number of the commoner sign and number of significant specifications are as large; None
            without shuffles.
    """

    median: float
    num_positive: int
    num_negative: int
    num_significant: int
    num_tested: int
    p_median: float | None = None
    p_sign: float | None = None
    p_significant: float | None = None


def curve_test(points: list[Point], alpha: float) -> CurveTest:
    """Permutation test of a specification curve. Source: Simonsohn, Simmons & Nelson 2020.

    Under every shuffle all specifications are computed anew, so their dependence is kept.
    """
    z = np.stack([point.z for point in points])
    p = np.stack([point.p_value for point in points])
    median = np.nanmedian(z, axis=0)
    signs = np.stack([np.sum(z > 0, axis=0), np.sum(z < 0, axis=0)])
    sure = np.stack(
        [np.sum((p <= alpha) & (z > 0), axis=0), np.sum((p <= alpha) & (z < 0), axis=0)]
    )

    def rank(values: Floats) -> float | None:
        if len(values) < 2:
            return None
        return float(np.mean(values >= values[0] - 1e-12))

    return CurveTest(
        median=float(np.tanh(median[0])),
        num_positive=int(signs[0, 0]),
        num_negative=int(signs[1, 0]),
        num_significant=int(sure[:, 0].max()),
        num_tested=int(np.sum(np.isfinite(p[:, 0]))),
        p_median=rank(np.abs(median)),
        p_sign=rank(signs.max(axis=0)),
        p_significant=rank(sure.max(axis=0)),
    )


def _standard(values: Floats) -> Floats:
    centred = values - values.mean(axis=-1, keepdims=True)
    spread = np.max(np.abs(centred), axis=-1, keepdims=True)
    return np.asarray(centred / np.where(spread > 0, spread, 1))


def _fisher(products: dict[str, Floats]) -> Floats:
    xx, yy = products["xx"], products["yy"]
    usable = (xx > 1e-12) & (yy > 1e-12)
    r = products["xy"] / np.sqrt(np.where(usable, xx * yy, np.nan))
    return np.arctanh(np.where(np.abs(r) < 1 - 1e-12, r, np.nan))


def _tested(z: Floats, left_out: Floats, degrees: Floats, *, tested: bool) -> Point:
    count = left_out.shape[1]
    if not count:
        empty = np.full(len(z), np.nan)
        return Point(z=z, std_error=empty, p_value=empty, degrees=degrees)
    spread = np.sum((left_out - left_out.mean(axis=1, keepdims=True)) ** 2, axis=1)
    error = np.sqrt((count - 1) / count * spread)
    usable = (degrees >= 1) & (count >= _MIN_SIZE) & (error > 0)
    error = np.where(usable, error, np.nan)
    point = Point(z=z, std_error=error, p_value=np.full(len(z), np.nan), degrees=degrees)
    return _retested(point, degrees) if tested else point


def _retested(point: Point, degrees: Floats) -> Point:
    error = np.where(point.std_error > 0, point.std_error, np.nan)
    p_value = 2 * special.stdtr(np.maximum(degrees, 1), -np.abs(point.z) / error)
    return Point(z=point.z, std_error=error, p_value=p_value, degrees=degrees)
