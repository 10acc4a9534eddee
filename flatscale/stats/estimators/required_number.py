"""How many families, configurations or seeds a wanted interval needs, from a pilot."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from flatscale.stats.estimators.replication import MIN_FAMILIES, recode
from flatscale.stats.sample import Floats, Ints, Sample, families_said

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
    family = np.zeros(n, dtype=np.int64) if sample.family is None else recode(sample.family)
    own = np.arange(n) if sample.configuration is None else sample.configuration
    configuration = recode(np.stack([family, own], axis=1))
    num_families, cells = int(family.max(initial=0)) + 1, int(configuration.max(initial=0)) + 1
    problem = sample.problem()
    if not problem and cells - num_families < 3:
        many = "configuration" if cells == 1 else "configurations"
        problem = f"{cells} {many} in {families_said(num_families)}: too few for a pilot"
    if problem:
        return RequiredNumber(half_width=half_width, reason=problem)
    x, y = sample.x - sample.x.mean(), sample.y - sample.y.mean()
    x, y = x / x.std(), y / y.std()
    r = float(np.mean(x * y))
    if abs(r) > 1 - 1e-9:
        reason = "a perfect correlation needs no larger study"
        return RequiredNumber(half_width=half_width, reason=reason)
    influence = (x * y - r * (x**2 + y**2) / 2) / (1 - r**2)
    top, inside, seed = variance_of_levels(influence, family, configuration)
    pilot = _Pilot(
        r=r,
        size=(num_families, cells / num_families, n / cells),
        variance=(0.0 if num_families < MIN_FAMILIES else top, inside, seed),
        confidence=confidence,
    )
    now = pilot.half_width(*pilot.size)
    return RequiredNumber(
        half_width=half_width,
        now=now if math.isfinite(now) else None,
        families=None if pilot.fixed else pilot.smallest(half_width, level=0, start=MIN_FAMILIES),
        configurations=pilot.smallest(half_width, level=1, start=1),
        seeds=pilot.smallest(half_width, level=2, start=1),
        variance=pilot.variance,
    )


@dataclass(frozen=True, kw_only=True)
class _Pilot:
    """r, the numbers of families, configurations and seeds, and the variance of each level."""

    r: float
    size: tuple[float, float, float]
    variance: tuple[float, float, float]
    confidence: float

    @property
    def fixed(self) -> bool:
        """Whether the families are held fixed."""
        return self.size[0] < MIN_FAMILIES

    def half_width(self, families: float, configurations: float, seeds: float) -> float:
        """Expected half width of r's interval in a balanced study of this size."""
        count = families * configurations
        top, inside, seed = self.variance
        variance = top / families + inside / count + seed / (count * seeds)
        units = count if self.fixed else families
        degrees = count - families - 1 if self.fixed else families - 1
        if degrees < 1 or units <= 2:
            return math.inf
        # leaving a unit out moves r by more than its influence, the fewer units the more
        variance *= (units / (units - 2)) ** 2
        half = float(special.stdtrit(degrees, 0.5 + self.confidence / 2)) * math.sqrt(variance)
        centre = math.atanh(self.r)
        return (math.tanh(centre + half) - math.tanh(centre - half)) / 2

    def smallest(self, half_width: float, *, level: int, start: int) -> int | None:
        """The smallest number of one level, from `start` on, that is enough; None where none is."""

        def enough(number: int) -> bool:
            size = [float(number) if k == level else self.size[k] for k in range(3)]
            return self.half_width(size[0], size[1], size[2]) <= half_width

        return smallest_number(enough, start, _MOST)


def smallest_number(enough: Callable[[int], bool], start: int, most: int) -> int | None:
    """The smallest number from `start` on that is enough, as more are too; None beyond `most`.

    Args:
        enough: whether a number is; asked of `start` and larger numbers only.
        start: the smallest that may be.
        most: beyond which none is looked for.
    """
    low, high = start - 1, start
    while not enough(high):
        low, high = high, 2 * high
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


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
