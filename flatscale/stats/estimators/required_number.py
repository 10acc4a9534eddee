"""How many families, configurations or seeds a wanted interval needs, from a pilot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from flatscale.stats.estimators.replication import MIN_FAMILIES, recode
from flatscale.stats.findings import null_estimate
from flatscale.stats.sample import Floats, Ints, Sample

_MOST = 100_000


@dataclass(frozen=True, kw_only=True)
class RequiredNumber:
    """What the wanted half width of the pooled r needs, one level changed at a time.

    Attributes:
        half_width: wanted, on the scale of r.
        now: expected of a balanced study as large as the pilot; None where none can be told.
        families, configurations, seeds: needed in all, per family and per configuration, the
            other two as in the pilot; None where no number is enough.
        variance: of the influence of one row on atanh r by level: family, configuration, seed.
        reason: why there are no numbers.
    """

    half_width: float
    now: float | None = None
    families: int | None = None
    configurations: int | None = None
    seeds: int | None = None
    variance: tuple[float, float, float] | None = None
    reason: str | None = None


def required_number(
    sample: Sample, *, half_width: float = 0.2, confidence: float = 0.95
) -> RequiredNumber:
    """Size of a study whose interval of the pooled Pearson r has the wanted half width.

    The influence of a row on z = atanh r, (x y - r (x^2 + y^2)/2) / (1 - r^2) with x and y
    standardised, is split into variance components of families, configurations in them and seeds
    (nested analysis of variance). A balanced study of F, C, S then has
    Var z = s_F/F + s_C/(F C) + s_S/(F C S) and a half width t sqrt(Var z), taken back to r at the
    pilot's r. Fewer than five families are held fixed: s_F counts for nothing, and their number
    cannot be asked. A pilot tells these numbers roughly: with few units, within a factor of two.

    Raises:
        ValueError: the half width is not between 0 and 1.
    """
    if not 0 < half_width < 1:
        raise ValueError(f"a half width of r is between 0 and 1, found {half_width}")
    n = sample.num_trials
    problem = sample.problem()
    family = np.zeros(n, dtype=np.int64) if sample.family is None else recode(sample.family)
    own = np.arange(n) if sample.configuration is None else sample.configuration
    configuration = recode(np.stack([family, own], axis=1))
    num_families, cells = int(family.max(initial=0)) + 1, int(configuration.max(initial=0)) + 1
    if not problem and cells - num_families < 3:
        problem = f"{cells} configurations in {num_families} families are too few for a pilot"
    x, y = sample.x - sample.x.mean(), sample.y - sample.y.mean()
    if not problem:
        x, y = x / x.std(), y / y.std()
        r = float(np.mean(x * y))
        problem = "a perfect correlation needs no larger study" if abs(r) > 1 - 1e-9 else None
    if problem:
        return RequiredNumber(half_width=half_width, reason=null_estimate(problem).reason)
    influence = (x * y - r * (x**2 + y**2) / 2) / (1 - r**2)
    fixed = num_families < MIN_FAMILIES
    found = variance_of_levels(influence, family, configuration)
    parts = (0.0 if fixed else found[0], found[1], found[2])
    size = (num_families, cells / num_families, n / cells)

    def width(families: float, configurations: float, seeds: float) -> float:
        count = families * configurations
        variance = parts[0] / families + parts[1] / count + parts[2] / (count * seeds)
        units, degrees = (count, count - families - 1) if fixed else (families, families - 1)
        if degrees < 1 or units <= 2:
            return math.inf
        # leaving a unit out moves r by more than its influence, the fewer units the more
        variance *= (units / (units - 2)) ** 2
        half = float(stats.t.ppf(0.5 + confidence / 2, degrees)) * math.sqrt(variance)
        centre = math.atanh(r)
        return (math.tanh(centre + half) - math.tanh(centre - half)) / 2

    def smallest(level: int, start: int) -> int | None:
        def enough(number: int) -> bool:
            changed = [float(number) if k == level else size[k] for k in range(3)]
            return width(changed[0], changed[1], changed[2]) <= half_width

        low, high = start - 1, max(2, start)
        while not enough(high):
            low, high = high, 2 * high
            if high > _MOST:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    now = width(*size)
    return RequiredNumber(
        half_width=half_width,
        now=now if math.isfinite(now) else None,
        families=None if fixed else smallest(0, MIN_FAMILIES),
        configurations=smallest(1, 1),
        seeds=smallest(2, 1),
        variance=parts,
    )


def variance_of_levels(
    values: Floats, family: Ints, configuration: Ints
) -> tuple[float, float, float]:
    """Variance components of families, configurations in families, and rows in configurations.

    Moments of the nested, unbalanced analysis of variance (Searle, Casella & McCulloch 1992,
    chapter 5), negative ones set to 0. Without replicates rows and configurations are one level,
    counted as configurations.
    """
    n = len(values)
    size = np.bincount(configuration).astype(np.float64)
    means = np.bincount(configuration, weights=values) / size
    cells = len(size)
    of_cell = np.zeros(cells, dtype=np.int64)
    of_cell[configuration] = family
    rows = np.bincount(family).astype(np.float64)
    families = len(rows)
    family_means = np.bincount(family, weights=values) / rows
    seed = float(np.sum((values - means[configuration]) ** 2)) / (n - cells) if n > cells else 0.0
    between_cells = float(size @ (means - family_means[of_cell]) ** 2)
    squares = np.bincount(of_cell, weights=size**2)
    inside = n - float(np.sum(squares / rows))
    cell = max(0.0, (between_cells - (cells - families) * seed) / inside) if inside > 0 else 0.0
    if families < 2:
        return 0.0, cell, seed
    between = float(rows @ (family_means - values.mean()) ** 2)
    of_cells = float(np.sum(squares / rows)) - float(squares.sum()) / n
    of_families = n - float(rows @ rows) / n
    top = (between - of_cells * cell - (families - 1) * seed) / of_families
    return max(0.0, top), cell, seed
