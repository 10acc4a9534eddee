"""Rises of the loss in rounds until their mean is accurate, in one precision or in two.

Multilevel Monte Carlo (Giles 2008): E[float32] = E[bfloat16] + E[float32 - bfloat16]. The first
mean takes many cheap rounds; the second, of both precisions under the same perturbations, varies
little and takes few. Their perturbations differ, so that the variances add.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from flatscale.errors import MetricError
from flatscale.metrics.estimators.accurate_draws import (
    MeanOfDraws,
    as_many_as_needed,
    draw_until_accurate,
    widening,
)

Precision = Literal["float32", "bfloat16"]
Pairs = Callable[[Precision, bool, int, int], list[np.ndarray]]
"""(precision, of the perturbations for corrections, first, last) -> a round's rises (n,) each."""

FEWEST_EVALUATIONS = 12
"""Of a point in two precisions: a spread takes two rounds, and a correction two pairs."""
_DEGREES_OF_FREEDOM = 12
"""Fewest, of groups times rounds less one, that a standard error is taken from."""
_FEWEST_RISES = 60
"""Fewest rises, points times rounds: theirs are skewed, their mean is to be nearly normal."""
_COST_OF_CORRECTION = 3.0
"""What a pair in both precisions costs, in pairs of bfloat16."""


@dataclass(frozen=True, kw_only=True)
class LossRises:
    """Antithetic rises of the loss, (loss(+z) + loss(-z)) / 2 - loss, per point and round.

    Attributes:
        rho: standard deviation of the perturbation.
        rises: (n, rounds); NaN rows where the unperturbed loss is not finite.
        corrections: float32's rises less bfloat16's, where `rises` are bfloat16's (n, rounds).
        groups: which points share a perturbation (n,).
        converged: whether the standard error reached its target within the budget.
    """

    rho: float
    rises: np.ndarray
    corrections: np.ndarray | None = None
    groups: np.ndarray
    converged: bool

    @property
    def levels(self) -> list[np.ndarray]:
        """Independent parts whose means add up to the estimate."""
        return [self.rises] if self.corrections is None else [self.rises, self.corrections]

    @cached_property
    def kept(self) -> np.ndarray:
        return np.isfinite(np.concatenate(self.levels, axis=1)).all(axis=1)

    @property
    def num_evaluations(self) -> int:
        """Per point."""
        pairs = self.rises.shape[1]
        return 1 + 2 * (
            pairs if self.corrections is None else pairs + 2 * self.corrections.shape[1]
        )

    @cached_property
    def group_variances(self) -> list[np.ndarray]:
        """Variances of one round's sum over each group, by level."""
        groups, found = self.groups[self.kept], []
        for level in self.levels:
            sums = np.zeros((int(groups.max()) + 1, level.shape[1]))
            np.add.at(sums, groups, level[self.kept])
            found.append(sums.var(axis=1, ddof=1))
        return found

    @cached_property
    def mean(self) -> MeanOfDraws:
        """Over points and rounds, with its standard error over perturbations.

        The points are taken as given. Groups are independent, so the variances of their sums add;
        the error is widened for the degrees of freedom that their sum has (Satterthwaite 1946).
        """
        value = sum(float(level[self.kept].mean()) for level in self.levels)
        variance = squares = 0.0
        for level, variances in zip(self.levels, self.group_variances, strict=True):
            rounds = level.shape[1]
            variance += variances.sum() / rounds
            squares += np.square(variances).sum() / rounds**2 / (rounds - 1)
        error = math.sqrt(variance) / self.kept.sum()
        if error > 0:
            error *= widening(variance**2 / squares)
        return MeanOfDraws(value=value, std_error=float(error))

    @property
    def relative_error(self) -> float:
        return self.mean.relative_error


@dataclass
class Rounds:
    """Rounds drawn so far, and how many of the next are corrections.

    Args:
        pairs: computes rounds.
        precision: of most of them.
        rho, groups: as in `LossRises`.
    """

    pairs: Pairs
    precision: Precision
    rho: float
    groups: np.ndarray
    rises: list[np.ndarray] = field(default_factory=list, init=False)
    corrections: list[np.ndarray] = field(default_factory=list, init=False)
    found: LossRises | None = field(default=None, init=False)

    def until_accurate(self, max_relative_error: float, most: int) -> LossRises:
        """Draw until the error is at most this share of the estimate, or for so many pairs.

        Raises:
            MetricError: no point's loss is finite.
        """
        # enough rounds first that their spread is known: by degrees of freedom and by rises
        first = max(1 + math.ceil(_DEGREES_OF_FREEDOM / (self.groups[-1] + 1)), self._fewest)
        if self.precision != "float32":
            first += 2 * max(2, self._fewest)
        drawn = draw_until_accurate(
            self._draw,
            lambda _: self._estimate(),
            first=min(first, most),
            most=most,
            max_relative_error=max_relative_error,
            schedule=as_many_as_needed,
        )
        return replace(drawn.estimate, converged=drawn.converged)

    @property
    def _fewest(self) -> int:
        return math.ceil(_FEWEST_RISES / len(self.groups))

    def _draw(self, start: int, stop: int) -> list[np.ndarray]:
        """Rounds for pairs up to `stop`, of which a correction takes two; all that was computed."""
        had, made = len(self.rises), len(self.corrections)
        both = self._corrections_of(stop)
        found = self.pairs(self.precision, False, had, stop - 2 * both)
        self.rises += found
        if both > made:
            fine = self.pairs("float32", True, made, both)
            coarse = self.pairs(self.precision, True, made, both)
            self.corrections += [f - c for f, c in zip(fine, coarse, strict=True)]
            found = [*found, *fine, *coarse]
        return found

    def _corrections_of(self, pairs: int) -> int:
        """Of so many pairs, in the shares that make the error smallest for their cost."""
        if self.precision == "float32":
            return 0
        wanted = max(2, self._fewest)
        if self.found is not None:
            of_rises, of_corrections = (float(v.sum()) for v in self.found.group_variances)
            ratio = math.sqrt(of_corrections / max(_COST_OF_CORRECTION * of_rises, 1e-300))
            wanted = max(wanted, math.ceil(pairs * ratio / (1 + 2 * ratio)))
        room = min(pairs // 3, (pairs - len(self.rises)) // 2)
        return max(len(self.corrections), min(wanted, room))

    def _estimate(self) -> LossRises:
        corrections = np.stack(self.corrections, axis=1) if self.corrections else None
        found = LossRises(
            rho=self.rho,
            rises=np.stack(self.rises, axis=1),
            corrections=corrections,
            groups=self.groups,
            converged=False,
        )
        if not found.kept.any():
            raise MetricError(
                "the loss, or the loss under perturbation, is not finite at any point"
            )
        self.found = found
        return found
