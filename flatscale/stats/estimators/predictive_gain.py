"""What a measure adds to the hyperparameters in predicting an outcome, out of fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy import special, stats
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from flatscale.stats.estimators.replication import Units, jackknife, recode
from flatscale.stats.findings import Estimate
from flatscale.stats.sample import Floats, Ints, numeric_column

MIN_BLOCKS = 5
_ALPHAS = np.geomspace(1e-2, 1e5, 15)
_FEW_LEVELS = 6
_MOST_FOLDS = 10


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Shares of the outcome's variance that are predicted out of fold, and their difference.

    hyperparameters, both: R^2 = 1 - sum (y - prediction)^2 / sum (y - mean)^2, below 0 where a
    prediction is worse than the mean. gain: their difference with its interval.
    """

    hyperparameters: float
    both: float
    gain: Estimate


def normal_scores(values: Floats) -> Floats:
    """Normal quantiles of the ranks, n values: what only their order decides."""
    return np.asarray(special.ndtri(stats.rankdata(values) / (len(values) + 1)))


def design_features(table: pl.DataFrame, names: Sequence[str]) -> Floats:
    """Hyperparameters as features (n x p): main effects and all products of two.

    Text, and numbers with at most 6 levels, have an indicator of every level. Numbers also enter
    themselves (their log10 where they are positive and span more than a factor of 10), with square
    and cube where they have more levels than that.
    """
    columns: list[Floats] = []
    for name in names:
        series = table[name]
        if series.dtype.is_numeric():
            values = numeric_column(table, name)
            if values.min() > 0 and values.max() > 10 * values.min():
                values = np.log10(values)
            values = StandardScaler().fit_transform(values[:, None])
            many = series.n_unique() > _FEW_LEVELS
            columns.append(np.hstack([values, values**2, values**3]) if many else values)
        else:
            many = False
        if not many:
            levels = series.cast(pl.String).fill_null("missing").to_numpy()[:, None]
            columns.append(OneHotEncoder(sparse_output=False).fit_transform(levels))
    return np.hstack(columns)


def blocked_folds(groups: Ints, seed: int) -> Ints:
    """Fold of each row, groups kept together: at most 10 folds of similar size."""
    shuffled = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups]
    folds = np.zeros(len(groups), dtype=np.int64)
    split = GroupKFold(min(_MOST_FOLDS, int(groups.max()) + 1))
    for number, (_, rows) in enumerate(split.split(groups, groups=shuffled)):
        folds[rows] = number
    return folds


def predict_out_of_fold(features: Floats, outcomes: Floats, folds: Ints) -> Floats:
    """Predictions (n x k) of each fold's outcomes by a ridge regression on the other folds.

    Products of two features are features too; the penalty of each outcome is chosen by
    leave-one-out on the training folds. No prediction leaves the range of the training outcomes.
    """
    products = PolynomialFeatures(2, interaction_only=True, include_bias=False)
    wide = products.fit_transform(features)
    found = np.empty_like(outcomes)
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        scale = StandardScaler().fit(wide[~out])
        model = RidgeCV(alphas=_ALPHAS, alpha_per_target=True)
        model.fit(scale.transform(wide[~out]), outcomes[~out])
        low, high = outcomes[~out].min(axis=0), outcomes[~out].max(axis=0)
        predicted = np.asarray(model.predict(scale.transform(wide[out])))
        found[out] = np.clip(predicted.reshape(-1, outcomes.shape[1]), low, high)
    return found


def add_measure(without: Floats, outcome: Floats, measure: Floats, folds: Ints) -> Floats:
    """Out-of-fold predictions (n,) of the outcome from hyperparameters and a measure.

    Partially linear (Robinson 1988): the prediction from the hyperparameters, plus a line in what
    they leave of the measure, fitted on the other folds to what they leave of the outcome.

    Args:
        without: predictions of outcome and measure from the hyperparameters (n x 2), out of fold.
        outcome, measure: (n,).
        folds: (n,), as for the predictions.
    """
    left = np.column_stack([outcome, measure]) - without
    found = without[:, 0].copy()
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        centre = left[~out].mean(axis=0)
        y, x = (left[~out] - centre).T
        slope = float(x @ y) / max(float(x @ x), 1e-300)
        found[out] += centre[0] + slope * (left[out, 1] - centre[1])
    return np.asarray(np.clip(found, outcome.min(), outcome.max()))


def gain_of(
    outcome: Floats, without: Floats, together: Floats, units: Units, *, confidence: float = 0.95
) -> Gain:
    """The gain of one outcome from out-of-fold predictions, each (n,), without and with a measure.

    The interval is the jackknife's over the independent units, with the predictions as they are:
    gain = sum_u sum_i in u (e_without^2 - e_with^2) / sum (y - mean)^2, t with U - F degrees of
    freedom, F the families held fixed. A measure that says nothing has a gain a little below 0,
    since the second model has more to fit, so an interval above 0 is a careful claim. The p-value
    is one-sided, of no gain.
    """
    total = (outcome - outcome.mean()) ** 2
    lost, left = (outcome - without) ** 2, (outcome - together) ** 2
    sums = [np.bincount(units.codes, v) for v in (lost - left, total)]
    value = float(sums[0].sum() / sums[1].sum())
    gain = jackknife(
        value,
        (sums[0].sum() - sums[0]) / (sums[1].sum() - sums[1]),
        units=units,
        degrees=max(1.0, units.count - float(units.num_strata)),
        num_trials=len(outcome),
        confidence=confidence,
        fisher=False,
    )
    return Gain(
        hyperparameters=1 - float(lost.sum() / total.sum()),
        both=1 - float(left.sum() / total.sum()),
        gain=gain
        if gain.p_value is None
        else replace(gain, p_value=gain.p_value / 2 if value > 0 else 1 - gain.p_value / 2),
    )


def too_few_groups(groups: Ints, least: int, what: str) -> str | None:
    """Why rows cannot be split by these groups, or None."""
    count = int(recode(groups).max(initial=-1)) + 1
    return f"{count} values of {what}, at least {least} needed" if count < least else None
