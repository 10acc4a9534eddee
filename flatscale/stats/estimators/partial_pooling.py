"""Bayesian partial pooling of the families' correlations, integrated on a grid: no sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import special
from scipy.optimize import brentq

from flatscale.stats.sample import Floats

_POINTS = 2000
_FARTHEST = 1e5


@dataclass(frozen=True, kw_only=True)
class Priors:
    """What is believed of the families' z = atanh r before the data.

    Attributes:
        name: how the priors are printed.
        tau: density of the standard deviation tau between families, up to a factor.
        mean, sd: of the normal prior of the mean mu over families; an infinite sd is flat.
    """

    name: str
    tau: Callable[[Floats], Floats]
    mean: float = 0.0
    sd: float = 1.0


def half_normal(scale: float) -> Callable[[Floats], Floats]:
    """exp(-tau^2/(2 scale^2)): 95% of it lies below 1.96 scale."""
    return lambda tau: np.exp(-((tau / scale) ** 2) / 2)


def half_cauchy(scale: float) -> Callable[[Floats], Floats]:
    """1/(1 + tau^2/scale^2): half of it lies below scale, with a long tail."""
    return lambda tau: 1 / (1 + (tau / scale) ** 2)


PRIORS = (
    Priors(name="mu ~ N(0, 1), tau ~ half-normal(0.5)", tau=half_normal(0.5)),
    Priors(name="mu ~ N(0, 1), tau ~ half-normal(0.25)", tau=half_normal(0.25)),
    Priors(name="mu ~ N(0, 1), tau ~ half-normal(1)", tau=half_normal(1.0)),
    Priors(name="mu ~ N(0, 1), tau ~ half-Cauchy(0.5)", tau=half_cauchy(0.5)),
    Priors(name="mu ~ N(0, 0.5), tau ~ half-normal(0.5)", tau=half_normal(0.5), sd=0.5),
    Priors(name="mu flat, tau ~ half-normal(0.5)", tau=half_normal(0.5), sd=math.inf),
)
"""The priors stated first, then those of the sensitivity check, all on the scale of atanh r.

N(0, 1) for the mean puts 95% of its r between -.96 and .96, nearly evenly; half-normal(0.5) for tau
lets families of one mean differ by up to about 1 in atanh r. The others halve and double the
belief in tau, give it a long tail, and make the mean's tighter and flat.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """A posterior as normals over the grid of tau: weights, means and variances of shape (G,)."""

    weights: Floats
    means: Floats
    variances: Floats

    @cached_property
    def mean(self) -> float:
        """Posterior mean."""
        return float(self.weights @ self.means)

    @cached_property
    def sd(self) -> float:
        """Posterior standard deviation."""
        return math.sqrt(float(self.weights @ (self.variances + (self.means - self.mean) ** 2)))

    def below(self, value: float) -> float:
        """Posterior probability of less than `value`."""
        return float(self.weights @ special.ndtr((value - self.means) / np.sqrt(self.variances)))

    def quantile(self, share: float) -> float:
        """The value with posterior probability `share` below it."""
        centre, width = self.mean, self.sd
        while self.below(centre - width) > share or self.below(centre + width) < share:
            width *= 2
        return float(brentq(lambda v: self.below(v) - share, centre - width, centre + width))


@dataclass(frozen=True, kw_only=True, eq=False)
class Pooling:
    """Posterior of the normal-normal model on the scale of the effects.

    Attributes:
        tau: grid of the standard deviation between families (G,), with its `weights`.
        mean: posterior of the mean over families; `new` of the next family's effect; `families`
            of each family's own, drawn toward the mean.
    """

    tau: Floats
    weights: Floats
    mean: Mixture
    new: Mixture
    families: tuple[Mixture, ...]

    def tau_below(self, value: float) -> float:
        """Posterior probability that tau is less than `value`."""
        # a point's weight reaches half way to its neighbours, so half of it lies below the point
        middle = np.cumsum(self.weights) - self.weights / 2
        return float(np.interp(value, self.tau, middle))

    def tau_quantile(self, share: float) -> float:
        """The tau with posterior probability `share` below it."""
        return float(np.interp(share, np.cumsum(self.weights) - self.weights / 2, self.tau))


def pool_partially(z: Floats, variance: Floats, priors: Priors) -> Pooling:
    """Posterior of z_i ~ N(theta_i, v_i), theta_i ~ N(mu, tau^2) from effects and variances (k,).

    Given tau everything is normal: the precision of mu is sum 1/(v_i + tau^2) + 1/sd^2 and theta_i
    lies at B z_i + (1 - B) mu, B = tau^2/(tau^2 + v_i). So the posterior is a mixture of normals
    over tau, whose density prior(tau) p(z | tau) is summed on a grid of sinh spacing, dense at 0
    and reaching far into the tail. Source: Roever 2020, J. Stat. Software 93 (6).

    Raises:
        ValueError: no effects, or a variance that is not positive.
    """
    if len(z) < 1 or np.any(variance <= 0):
        raise ValueError("partial pooling needs at least one effect with a positive variance")
    unit = math.sqrt(float(np.min(variance)))
    step = np.linspace(0, math.asinh(_FARTHEST), _POINTS)
    tau = unit * np.sinh(step)
    w = 1 / (variance + tau[:, None] ** 2)
    prior_precision = 0.0 if math.isinf(priors.sd) else priors.sd**-2
    precision = w.sum(axis=1) + prior_precision
    mu = (w @ z + prior_precision * priors.mean) / precision
    squares = w @ z**2 + prior_precision * priors.mean**2 - precision * mu**2
    log_likelihood = (np.log(w).sum(axis=1) - np.log(precision) - squares) / 2
    # cosh turns the even steps of the grid into steps of tau; the ends count half (trapezoids)
    mass = priors.tau(tau) * np.cosh(step) * np.exp(log_likelihood - log_likelihood.max())
    mass[[0, -1]] /= 2
    weights = mass / mass.sum()
    share = tau[:, None] ** 2 * w
    rest = 1 - share
    return Pooling(
        tau=tau,
        weights=weights,
        mean=Mixture(weights=weights, means=mu, variances=1 / precision),
        new=Mixture(weights=weights, means=mu, variances=1 / precision + tau**2),
        families=tuple(
            Mixture(
                weights=weights,
                means=share[:, i] * z[i] + rest[:, i] * mu,
                variances=share[:, i] * variance[i] + rest[:, i] ** 2 / precision,
            )
            for i in range(len(z))
        ),
    )
