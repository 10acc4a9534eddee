"""Rises of the loss, in rounds until their mean is accurate.

Two variance reductions, both exact in the mean. Multilevel Monte Carlo (Giles 2008): E[float32] =
E[bfloat16] + E[float32 - bfloat16]. The first mean takes many cheap rounds; the second, of both
precisions under the same perturbations, varies little and takes few. Their perturbations differ, so
that the variances add. And a control variate: an antithetic pair cancels what is odd in z, at two
evaluations; where the gradient predicts nearly all of that, loss(z) less its linear part needs one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from flatscale.errors import MetricError
from flatscale.metrics.estimators.accurate_draws import as_many_as_needed, draw_until_accurate
from flatscale.metrics.passes.perturbation.loss_rises import LossRises, Stream
from flatscale.metrics.probe.rounding import Precision

FEWEST_EVALUATIONS = 12
"""Of a point in two precisions: a spread takes two rounds, and a correction two pairs."""
_DEGREES_OF_FREEDOM = 12
"""Fewest, of groups times rounds less one, that a standard error is taken from."""
_FEWEST_RISES = 60
"""Fewest rises, points times rounds: theirs are skewed, their mean is to be nearly normal."""
_COST_OF_CORRECTION = 3.0
"""What a pair in both precisions costs, in pairs of bfloat16."""
_COST_OF_A_SLOPE = 0.2
"""What a slope and its share of a gradient cost, in evaluations."""


@dataclass(frozen=True, kw_only=True)
class Perturbed:
    """Rounds of one stream.

    Attributes:
        rises: loss(sign z) - loss (n, rounds, signs).
        slopes: the part of loss(+z) that is linear in z (n, rounds); NaN where not asked for.
    """

    rises: np.ndarray
    slopes: np.ndarray

    @property
    def even(self) -> np.ndarray:
        """Of antithetic pairs (n, rounds)."""
        return self.rises.mean(axis=2)

    def coefficient(self) -> float | None:
        """What slopes are multiplied with in single rises; None where pairs are the cheaper.

        The least-squares coefficient of the odd parts on the slopes. A single rise varies as the
        even part of a pair and what the slope leaves of the odd one.
        """
        odd = (self.rises[:, :, 0] - self.rises[:, :, 1]) / 2
        finite = np.isfinite(odd).all(axis=1) & np.isfinite(self.slopes).all(axis=1)
        odd, slopes, even = odd[finite], self.slopes[finite], self.even[finite]
        if not np.square(slopes).sum() > 0:
            return None
        coefficient = float((odd * slopes).sum() / np.square(slopes).sum())
        of_pair = even.var(axis=1, ddof=1).mean()
        of_single = of_pair + np.square(odd - coefficient * slopes).mean()
        return coefficient if (1 + _COST_OF_A_SLOPE) * of_single < 2 * of_pair else None


Draw = Callable[[Stream, Precision, int, int], Perturbed]
"""(stream, precision, first, last) -> these rounds."""


@dataclass
class Rounds:
    """Rounds drawn so far, and what the next are.

    Args:
        draw: computes rounds.
        precision: of most of them.
        rho, groups: as in `LossRises`.
    """

    draw: Draw
    precision: Precision
    rho: float
    groups: Mapping[Stream, np.ndarray]
    coefficient: float | None = field(default=None, init=False)
    parts: dict[Stream, np.ndarray] = field(default_factory=dict, init=False)
    found: LossRises | None = field(default=None, init=False)

    def until_accurate(self, max_relative_error: float, most: int) -> LossRises:
        """Draw until the error is at most this share of the estimate, or for so many pairs.

        Raises:
            MetricError: no point's loss is finite.
        """
        # enough rounds first that their spread is known: by degrees of freedom and by rises
        first = max(
            1 + math.ceil(_DEGREES_OF_FREEDOM / (self.groups["pairs"][-1] + 1)), self._fewest
        )
        if self.precision != "float32":
            first += 2 * max(2, self._fewest)
        drawn = draw_until_accurate(
            self._draw,
            lambda _: self._estimate(),
            first=min(first, most),
            most=most,
            max_relative_error=max_relative_error,
            schedule=self._next,
        )
        return replace(drawn.estimate, converged=drawn.converged)

    @property
    def _fewest(self) -> int:
        return math.ceil(_FEWEST_RISES / len(self.groups["pairs"]))

    def _count(self, stream: Stream) -> int:
        return self.parts[stream].shape[1] if stream in self.parts else 0

    def _next(self, spent: int, excess: float) -> int:
        """The work in pairs that the error needs: pairs or singles are added, corrections stay."""
        pairs, singles = self._count("pairs"), self._count("singles")
        needed = as_many_as_needed(pairs + singles, excess, growth=2 if singles else 4)
        if self.coefficient is not None:
            needed = pairs + math.ceil((needed - pairs) / 2)
        return max(spent + 1, needed + 2 * self._count("corrections"))

    def _draw(self, start: int, stop: int) -> list[None]:
        """Rounds up to the work of `stop` pairs, of which a correction takes two; one per pair."""
        both = self._corrections_of(stop)
        pairs = stop - 2 * both
        had, singles = self._count("pairs"), self._count("singles")
        if pairs == had + singles // 2:
            pass  # all of it goes into corrections
        elif self.coefficient is None:
            found = self.draw("pairs", self.precision, had, pairs)
            self._add("pairs", found.even)
            if not start:
                self.coefficient = found.coefficient()
        else:
            found = self.draw("singles", self.precision, singles, 2 * (pairs - had))
            self._add("singles", found.rises[:, :, 0] - self.coefficient * found.slopes)
        made = self._count("corrections")
        if both > made:
            fine = self.draw("corrections", "float32", made, both)
            coarse = self.draw("corrections", self.precision, made, both)
            self._add("corrections", fine.even - coarse.even)
        return [None] * (stop - start)

    def _add(self, stream: Stream, columns: np.ndarray) -> None:
        had = [self.parts[stream]] if stream in self.parts else []
        self.parts[stream] = np.concatenate([*had, columns], axis=1)

    def _corrections_of(self, pairs: int) -> int:
        """Of so many pairs, in the shares that make the error smallest for their cost."""
        if self.precision == "float32":
            return 0
        wanted = max(2, self._fewest)
        if self.found is not None:
            varies = {s: float(v.sum()) for s, v in self.found.group_variances.items()}
            of_pairs = varies["singles"] / 2 if "singles" in varies else varies["pairs"]
            ratio = math.sqrt(varies["corrections"] / max(_COST_OF_CORRECTION * of_pairs, 1e-300))
            wanted = max(wanted, math.ceil(pairs * ratio / (1 + 2 * ratio)))
        spent = self._count("pairs") + math.ceil(self._count("singles") / 2)
        room = min(pairs // 3, (pairs - spent) // 2)
        return max(self._count("corrections"), min(wanted, room))

    def _estimate(self) -> LossRises:
        found = LossRises(
            rho=self.rho,
            parts=dict(self.parts),
            groups=self.groups,
            converged=False,
        )
        if not found.kept.any():
            raise MetricError(
                "the loss, or the loss under perturbation, is not finite at any point"
            )
        self.found = found
        return found
