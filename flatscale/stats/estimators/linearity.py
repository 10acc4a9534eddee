"""Is the relation a line? A check with families as units, and a monotone curve where it is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from sklearn.isotonic import IsotonicRegression

from flatscale.stats.estimators.standard_residuals import mad_scale
from flatscale.stats.sample import Floats, Ints

LEVEL = 0.05
_BISQUARE = 4.685
_REACH = 2.5
_GRID = 60


@dataclass(frozen=True, kw_only=True, eq=False)
class Linearity:
    """The check and what follows from it.

    score_square and score_cube are the second- and third-degree scores over their standard
    errors, p_value that of the larger of them. `curve` holds the positions and values of the
    robust monotone curve, None where the line is kept.
    """

    score_square: float
    score_cube: float
    p_value: float
    curve: tuple[Floats, Floats] | None

    @property
    def curved(self) -> bool:
        return self.curve is not None

    def fitted(self, x: Floats) -> Floats:
        """The monotone curve at x, constant beyond its ends."""
        assert self.curve is not None
        positions, values = self.curve
        inside = np.clip(x, positions[0], positions[-1])
        return np.asarray(PchipInterpolator(positions, values)(inside))


def check_linearity(
    x: Floats, y: Floats, family: Ints, *, num_resamples: int = 1999, seed: int = 0
) -> Linearity | None:
    """Whether second- and third-degree terms improve on the line; None below 5 families.

    Scores of the orthogonal terms q_k on the residuals of the line, sum over families of
    s_fk = sum_i w_i q_ik e_i, with bisquare weights w from the fit with the terms (a curve is not
    weighted away) and e_i taken about the line fitted without family f. The terms are those of x
    pulled in to 2.5 robust standard deviations: far x make no curve. p is that of the larger
    |sum_f s_fk| / sqrt(sum_f s_fk^2) among random signs of whole families. A RESET (Ramsey 1969)
    with families as units by the score bootstrap of Kline & Santos 2012.
    """
    count = int(family.max()) + 1
    scale = mad_scale(x) or float(np.std(x))
    if count < 5 or scale == 0 or len(np.unique(x)) < 5:
        return None
    centred = (x - np.median(x)) / scale
    u = np.clip(centred, -_REACH, _REACH)
    line = np.column_stack([np.ones_like(x), centred])
    full = np.column_stack([line, u**2, u**3])
    weights, beta = _bisquare(full, y)
    root = np.sqrt(weights)[:, None]
    # terms orthogonal to the line under the weights
    terms = full[:, 2:] - line @ np.linalg.lstsq(root * line, root * full[:, 2:], rcond=None)[0]
    parts = np.zeros((count, 2, 2))
    np.add.at(parts, family, np.einsum("n,ni,nj->nij", weights, line, line))
    moments = np.zeros((count, 2))
    np.add.at(moments, family, (weights * y)[:, None] * line)
    without = parts.sum(axis=0) - parts
    if np.linalg.cond(without).max() > 1e10:
        return None
    betas = np.linalg.solve(without, (moments.sum(axis=0) - moments)[..., None])[..., 0]
    left = y - np.einsum("ni,ni->n", line, betas[family])
    scores = np.zeros((count, 2))
    np.add.at(scores, family, (weights * left)[:, None] * terms)
    own = y - line @ np.linalg.solve(parts.sum(axis=0), moments.sum(axis=0))
    error = np.sqrt(np.sum(scores**2, axis=0))
    if not np.all(error > 0):
        return None
    observed = (weights * own) @ terms / error
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(num_resamples, count))
    null = np.abs(signs @ (scores / error)).max(axis=1)
    reached = int(np.sum(null >= np.abs(observed).max() - 1e-12))
    p_value = (1 + reached) / (num_resamples + 1)
    return Linearity(
        score_square=float(observed[0]),
        score_cube=float(observed[1]),
        p_value=p_value,
        curve=_monotone(x, full @ beta) if p_value <= LEVEL else None,
    )


def _bisquare(design: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Bisquare weights and coefficients at the residuals' MAD, from a Huber start."""
    weights: Floats = np.ones(len(y))
    beta: Floats = np.zeros(design.shape[1])
    for step in range(30):
        root = np.sqrt(weights)
        solved = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
        before, beta = beta, np.asarray(solved, dtype=np.float64)
        left = y - design @ beta
        scale = max(mad_scale(left), 1e-12 * float(np.max(np.abs(y))))
        size = np.abs(left) / scale
        if step < 5:
            weights = np.minimum(1.0, 1.5 / np.maximum(size, 1e-9)).astype(np.float64)
        else:
            weights = np.clip(1 - (size / _BISQUARE) ** 2, 1e-3, 1.0) ** 2
        if step > 6 and np.max(np.abs(before - beta)) < 1e-6 * scale:
            break
    return weights, beta


def _monotone(x: Floats, fitted: Floats) -> tuple[Floats, Floats]:
    """The fitted curve made monotone by isotonic regression over the rows, at quantiles of x."""
    order = np.argsort(x)
    rising = float(np.corrcoef(x, fitted)[0, 1]) >= 0
    isotonic = IsotonicRegression(increasing=rising).fit(x[order], fitted[order])
    positions = np.unique(np.quantile(x, np.linspace(0, 1, _GRID)))
    return positions, isotonic.predict(positions)
