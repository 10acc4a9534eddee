"""Meta-regression: what explains the differences between the families' correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from flatscale.stats.estimators.synthesis import reml_tau_squared
from flatscale.stats.sample import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class MetaRegression:
    """Result of `meta_regression`, on the scale of the effects; arrays have shape (1 + p,).

    Attributes:
        coefficients: of the intercept and the p moderators.
        std_errors: Knapp and Hartung's; `wald_std_errors` are those without their correction.
        conf_low, conf_high, p_values: of each, t with k - p - 1 degrees of freedom.
        tau_squared: variance between effects that the moderators leave; `tau_squared_without` the
            variance without moderators.
        explained: share of `tau_squared_without` that the moderators explain, 0 to 1; None where
            there was nothing to explain.
        q_statistic, q_p_value: test that they leave nothing over, chi-squared with k - p - 1.
    """

    coefficients: Floats
    std_errors: Floats
    wald_std_errors: Floats
    conf_low: Floats
    conf_high: Floats
    p_values: Floats
    tau_squared: float
    tau_squared_without: float
    explained: float | None
    q_statistic: float
    q_p_value: float


def meta_regression(
    z: Floats, variance: Floats, moderators: Floats, *, confidence: float = 0.95
) -> MetaRegression:
    """Random-effects regression of effects `z` (k,) with sampling variances on moderators (k x p).

    z_i = b_0 + x_i b + u_i + e_i, u_i ~ N(0, tau^2), e_i ~ N(0, v_i); tau^2 by restricted maximum
    likelihood, weights w = 1/(v + tau^2), covariance s^2 (X'WX)^-1 with s^2 = sum w e^2/(k-p-1), t
    with k - p - 1 degrees of freedom. Sources: Knapp & Hartung 2003; Viechtbauer 2010.

    Raises:
        ValueError: fewer than p + 3 effects, or moderators that are constant or collinear.
    """
    scale = np.max(np.abs(moderators), axis=0)
    design = np.column_stack([np.ones(len(z)), moderators / np.where(scale > 0, scale, 1)])
    count, width = design.shape
    if count < width + 2:
        raise ValueError(f"{count} effects are too few for {width - 1} moderators")
    if np.linalg.matrix_rank(design) < width:
        raise ValueError("the moderators are constant or collinear")
    tau_squared = reml_tau_squared(z, variance, design)
    without = reml_tau_squared(z, variance)
    w, fixed = 1 / (variance + tau_squared), 1 / variance
    inverse = np.linalg.inv(design.T * w @ design)
    effects = inverse @ (design.T @ (w * z))
    degrees = count - width
    scatter = float(w @ (z - design @ effects) ** 2) / degrees
    back = np.concatenate([[1.0], scale])
    wald = np.sqrt(np.diag(inverse)) / back
    errors, coefficients = wald * np.sqrt(scatter), effects / back
    half = errors * float(special.stdtrit(degrees, 0.5 + confidence / 2))
    of_fixed = np.linalg.solve(design.T * fixed @ design, design.T @ (fixed * z))
    q_statistic = float(fixed @ (z - design @ of_fixed) ** 2)
    return MetaRegression(
        coefficients=coefficients,
        std_errors=errors,
        wald_std_errors=wald,
        conf_low=coefficients - half,
        conf_high=coefficients + half,
        p_values=2 * special.stdtr(degrees, -np.abs(coefficients) / errors),
        tau_squared=tau_squared,
        tau_squared_without=without,
        explained=max(0.0, 1 - tau_squared / without) if without > 0 else None,
        q_statistic=q_statistic,
        q_p_value=float(special.chdtrc(degrees, q_statistic)),
    )
