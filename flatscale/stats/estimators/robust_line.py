"""The robust line drawn through a pair, with a band that takes families as independent units."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import statsmodels.api as sm
from scipy import stats
from statsmodels.robust.resistant_linear_model import RLMDetSMM

from flatscale.stats.estimators.standard_residuals import bisquare_steps, mad_scale, theil_sen_slope
from flatscale.stats.sample import Floats, Sample

_BAND_POINTS = 50

Fit = tuple[Floats, Floats | None, float]
"""Coefficients (intercept, slope), their covariance, and the residual scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RobustLine:
    """y = intercept + slope x, the covariance (2 x 2) of (intercept, slope) and its degrees of
    freedom.
    """

    method: str
    slope: float
    intercept: float
    scale: float
    covariance: Floats | None
    degrees: float
    reason: str | None = None

    def interval(self, confidence: float) -> tuple[float, float] | None:
        """Confidence interval of the slope."""
        if self.covariance is None:
            return None
        half = math.sqrt(self.covariance[1, 1]) * float(
            stats.t.ppf(0.5 + confidence / 2, self.degrees)
        )
        return self.slope - half, self.slope + half

    def band(self, positions: Floats, confidence: float) -> tuple[Floats, Floats] | None:
        """Pointwise confidence band of the line at `positions`."""
        if self.covariance is None:
            return None
        design = np.column_stack([np.ones_like(positions), positions])
        variance = np.einsum("ni,ij,nj->n", design, self.covariance, design)
        half = np.sqrt(np.maximum(variance, 0)) * stats.t.ppf(0.5 + confidence / 2, self.degrees)
        centre = self.intercept + self.slope * positions
        return centre - half, centre + half


def robust_line(sample: Sample) -> RobustLine | None:
    """Deterministic MM line of a sample, or Theil-Sen where MM finds no scale; None without a
    correlation.

    The covariance is the leave-one-family-out jackknife of (intercept, slope), (F-1)/F sum of
    squares about the mean with F-1 degrees of freedom, where there are 3 or more families; else
    the fit's own with n-2.
    Sources: Yohai 1987; Hubert, Rousseeuw & Verdonck 2012; Theil 1950; Sen 1968.
    """
    if sample.problem():
        return None
    fitted: Fit | None = mm_fit(sample.x, sample.y)
    method = "mm" if fitted is not None else "theil_sen"
    if fitted is None:
        fitted = _theil_sen_fit(sample.x, sample.y)
    coefficients, covariance, scale = fitted
    degrees, reason = float(sample.num_trials - 2), None
    if sample.family is not None and len(sample.family_names) >= 3:
        jackknife = _family_covariance(sample, fitted, method)
        if jackknife is None:
            reason = (
                "no family jackknife: without one of the families there is no line; rows as units"
            )
        else:
            covariance, degrees = jackknife, len(sample.family_names) - 1.0
    if covariance is None:
        reason = "no interval: fewer than 3 families, and Theil-Sen has no standard error"
    return RobustLine(
        method=method,
        slope=float(coefficients[1]),
        intercept=float(coefficients[0]),
        scale=scale,
        covariance=covariance,
        degrees=degrees,
        reason=reason,
    )


def band_positions(sample: Sample) -> Floats:
    """Evenly spaced positions over the range of x."""
    return np.linspace(float(sample.x.min()), float(sample.x.max()), _BAND_POINTS)


def mm_fit(x: Floats, y: Floats) -> Fit | None:
    """MM estimate (intercept, slope), its covariance and scale; None where no finite fit exists."""
    centre_x, centre_y = float(np.median(x)), float(np.median(y))
    spread_x, spread_y = float(np.std(x)), float(np.std(y))
    if len(x) < 6 or spread_x == 0 or spread_y == 0:
        return None
    design = sm.add_constant((x - centre_x) / spread_x, has_constant="add")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # a line through most rows exactly makes the scale vanish; the finite check below catches it
        warnings.simplefilter("ignore")
        try:
            result = RLMDetSMM((y - centre_y) / spread_y, design).fit()
            parameters, covariance = np.asarray(result.params), np.asarray(result.cov_params())
            scale = float(result.scale)
        except (ValueError, ZeroDivisionError, np.linalg.LinAlgError):
            return None
    if not (np.all(np.isfinite(parameters)) and np.all(np.isfinite(covariance)) and scale > 0):
        return None
    slope = parameters[1] * spread_y / spread_x
    back = np.array([[spread_y, -centre_x * spread_y / spread_x], [0.0, spread_y / spread_x]])
    coefficients = np.array([centre_y + parameters[0] * spread_y - slope * centre_x, slope])
    return coefficients, back @ covariance @ back.T, scale * spread_y


def _theil_sen_fit(x: Floats, y: Floats) -> Fit:
    slope = theil_sen_slope(x, y)
    intercept = float(np.median(y - slope * x))
    return np.array([intercept, slope]), None, mad_scale(y - intercept - slope * x)


def _family_covariance(sample: Sample, fitted: Fit, method: str) -> Floats | None:
    """Jackknife covariance of (intercept, slope).

    Leave-out MM fits repeat the last stage from the full fit at its scale: a family changes the
    scale little, and a search anew for each family would take a hundred times as long.
    """
    assert sample.family is not None
    fits = []
    for code in range(len(sample.family_names)):
        x, y = sample.x[sample.family != code], sample.y[sample.family != code]
        if len(x) < 3 or np.ptp(x) == 0:
            return None
        if method == "mm":
            slope, intercept = bisquare_steps(x, y, fitted[0][1], fitted[0][0], fitted[2])
            fits.append(np.array([intercept, slope]))
        else:
            fits.append(_theil_sen_fit(x, y)[0])
    deviation = np.array(fits) - np.mean(fits, axis=0)
    return (len(fits) - 1) / len(fits) * deviation.T @ deviation
