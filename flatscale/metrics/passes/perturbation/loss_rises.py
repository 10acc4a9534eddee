"""The mean rise of the loss from draws of up to three kinds, with its standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from flatscale.metrics.estimators.accurate_draws import MeanOfDraws, widening

Stream = Literal["pairs", "singles", "corrections"]
"""Kinds of rounds, each with perturbations of its own.

Pairs are antithetic rises, (loss(+z) + loss(-z)) / 2 - loss. Singles are loss(z) - loss -
coefficient * slope, drawn where that is cheaper. Corrections are float32's pairs less bfloat16's,
where the others are bfloat16's.
"""


@dataclass(frozen=True, kw_only=True)
class LossRises:
    """Rises of the loss per point and round.

    Attributes:
        rho: standard deviation of the perturbation.
        parts: rises of every stream that was drawn (n, rounds); NaN rows where the unperturbed loss
            is not finite.
        groups: which points share a perturbation (n,), by stream.
        converged: whether the standard error reached its target within the budget.
    """

    rho: float
    parts: Mapping[Stream, np.ndarray]
    groups: Mapping[Stream, np.ndarray]
    converged: bool

    def count(self, stream: Stream) -> int:
        """Rounds drawn of this stream."""
        return self.parts[stream].shape[1] if stream in self.parts else 0

    def weight(self, stream: Stream) -> float:
        """Of a stream's mean: the weighted means add up to the estimate.

        Pairs and singles have the same mean and vary nearly alike; each counts by its rounds, which
        no draw decides, so that the weighted mean is unbiased.
        """
        if stream == "corrections":
            return 1.0
        return self.count(stream) / (self.count("pairs") + self.count("singles"))

    @cached_property
    def kept(self) -> np.ndarray:
        return np.isfinite(np.concatenate(list(self.parts.values()), axis=1)).all(axis=1)

    @property
    def num_evaluations(self) -> int:
        """Of the network, per point; the gradient that singles need counts as three."""
        pairs = 2 * self.count("pairs") + 4 * self.count("corrections")
        singles = self.count("singles")
        return 1 + pairs + singles + (3 if singles else 0)

    @cached_property
    def group_variances(self) -> dict[Stream, np.ndarray]:
        """Variances of one round's sum over each group, by stream."""
        found = {}
        for stream, part in self.parts.items():
            groups = self.groups[stream][self.kept]
            sums = np.zeros((int(groups.max()) + 1, part.shape[1]))
            np.add.at(sums, groups, part[self.kept])
            found[stream] = sums.var(axis=1, ddof=1)
        return found

    @cached_property
    def mean(self) -> MeanOfDraws:
        """Over points and rounds, with its standard error over perturbations.

        The points are taken as given. Groups are independent, so the variances of their sums add;
        the error is widened for the degrees of freedom that their sum has (Satterthwaite 1946).
        """
        value = variance = squares = 0.0
        for stream, part in self.parts.items():
            rounds, weight = part.shape[1], self.weight(stream)
            variances = weight**2 * self.group_variances[stream]
            value += weight * float(part[self.kept].mean())
            variance += variances.sum() / rounds
            squares += np.square(variances).sum() / rounds**2 / (rounds - 1)
        error = math.sqrt(variance) / self.kept.sum()
        if error > 0:
            error *= widening(variance**2 / squares)
        return MeanOfDraws(value=value, std_error=float(error))

    @property
    def relative_error(self) -> float:
        return self.mean.relative_error
