"""Random-effects synthesis of the families' correlations, on Fisher's z scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.optimize import brentq

from flatscale.stats.findings import Estimate
from flatscale.stats.sample import Floats

MIN_FAMILY_SIZE = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Synthesis:
    """Result of `synthesize`: z scale except where a name says r."""

    num_families: int
    z: float
    std_error: float
    wald_std_error: float
    conf_low: float
    conf_high: float
    prediction_low: float
    prediction_high: float
    p_value: float | None
    tau_squared: float
    q_statistic: float
    q_p_value: float
    i_squared: float
    weights: Floats

    @property
    def r(self) -> float:
        return math.tanh(self.z)


def synthesize(z: Floats, variance: Floats, *, confidence: float = 0.95) -> Synthesis:
    """Random-effects mean of effects `z` with sampling variances `variance`, each of shape (k,),
    k >= 2.

    tau^2 by restricted maximum likelihood; weights w = 1/(v + tau^2); Hartung-Knapp standard error
    sqrt(sum w (z - mean)^2 / ((k-1) sum w)) with t on k-1 degrees of freedom; prediction interval
    mean +- t_{k-1} sqrt(tau^2 + se^2); Q with the weights 1/v; I^2 = tau^2/(tau^2 + s^2) with
    Higgins and Thompson's typical variance s^2. Source: Viechtbauer 2005, 2010; Hartung & Knapp
    2001.
    """
    count = len(z)
    if count < 2 or np.any(variance <= 0):
        raise ValueError("synthesis needs at least two effects with positive variances")
    tau_squared = reml_tau_squared(z, variance)
    weights = 1 / (variance + tau_squared)
    mean = float(weights @ z / weights.sum())
    scatter = float(weights @ (z - mean) ** 2) / (count - 1)
    # effects that are equal but for rounding have no spread, whatever the order of the sums
    alike = float(np.ptp(z)) <= 1e-13 * float(np.max(np.abs(z)))
    error = 0.0 if alike else math.sqrt(scatter / weights.sum())
    quantile = float(special.stdtrit(count - 1, 0.5 + confidence / 2))
    spread = quantile * math.sqrt(tau_squared + error**2)
    fixed = 1 / variance
    q_statistic = float(fixed @ (z - fixed @ z / fixed.sum()) ** 2)
    typical = (count - 1) * fixed.sum() / (fixed.sum() ** 2 - (fixed**2).sum())
    return Synthesis(
        num_families=count,
        z=mean,
        std_error=error,
        wald_std_error=1 / math.sqrt(weights.sum()),
        conf_low=mean - quantile * error,
        conf_high=mean + quantile * error,
        prediction_low=mean - spread,
        prediction_high=mean + spread,
        p_value=float(2 * special.stdtr(count - 1, -abs(mean) / error)) if error > 0 else None,
        tau_squared=tau_squared,
        q_statistic=q_statistic,
        q_p_value=float(special.chdtrc(count - 1, q_statistic)),
        i_squared=float(tau_squared / (tau_squared + typical)),
        weights=weights / weights.sum(),
    )


def reml_tau_squared(z: Floats, variance: Floats, moderators: Floats | None = None) -> float:
    """The variance between effects that maximises the restricted likelihood, at least 0.

    With `moderators` (k x p, a column of ones among them) it is the variance left beside them. The
    likelihood may have several stationary points: every sign change of its derivative on a
    logarithmic grid is refined, and the best of them and of 0 is taken.
    """
    design = np.ones((len(z), 1)) if moderators is None else moderators

    def parts(tau_squared: Floats) -> tuple[Floats, Floats, Floats]:
        """Weights w, residuals from the weighted fit, and X'WX, one line a tau^2."""
        w = 1 / (variance + tau_squared[:, None])
        inner = np.einsum("gk,ki,kj->gij", w, design, design)
        effects = np.linalg.solve(inner, (w * z @ design)[..., None])[..., 0]
        return w, z - effects @ design.T, inner

    def scores(tau_squared: Floats) -> Floats:
        w, rest, inner = parts(tau_squared)
        squares = np.einsum("gk,ki,kj->gij", w**2, design, design)
        lost = np.trace(np.linalg.solve(inner, squares), axis1=1, axis2=2)
        return np.asarray(np.sum((w * rest) ** 2, axis=1) - w.sum(axis=1) + lost)

    def score(tau_squared: float) -> float:
        return float(scores(np.array([tau_squared]))[0])

    def log_likelihood(tau_squared: float) -> float:
        w, rest, inner = (part[0] for part in parts(np.array([tau_squared])))
        return float(np.log(w).sum() - np.linalg.slogdet(inner)[1] - w @ rest**2) / 2

    upper = 10 * (float(np.var(z, ddof=1)) + float(variance.max()))
    grid = np.concatenate([[0.0], np.geomspace(upper * 1e-8, upper, 80)])
    rising = scores(grid) > 0
    candidates = [0.0]
    for k in np.flatnonzero(rising[:-1] & ~rising[1:]):
        candidates.append(float(brentq(score, grid[k], grid[k + 1], xtol=1e-14)))
    return max(candidates, key=log_likelihood)


def fisher_z(estimates: dict[str, Estimate]) -> tuple[list[str], Floats, Floats, dict[str, str]]:
    """Families fit for synthesis with z = atanh r, v = 1/(n-3), and why others are not."""
    used: list[str] = []
    effects: list[float] = []
    variances: list[float] = []
    refused: dict[str, str] = {}
    for name, found in estimates.items():
        if found.estimate is None:
            refused[name] = found.reason or "no correlation"
        elif found.num_trials < MIN_FAMILY_SIZE:
            refused[name] = (
                f"{found.num_trials} rows, at least {MIN_FAMILY_SIZE} needed for a variance of z"
            )
        elif abs(found.estimate) >= 1:
            refused[name] = "a perfect correlation has no finite z"
        else:
            used.append(name)
            effects.append(math.atanh(found.estimate))
            variances.append(1 / (found.num_trials - 3))
    return used, np.array(effects), np.array(variances), refused
