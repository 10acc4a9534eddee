"""The information plane: what a binned layer says of the input and of the label."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from flatscale.measurement import Measurement
from flatscale.metrics.estimators.entropy import shared_surprisal, surprisal
from flatscale.metrics.passes.activation_bins import OUTPUTS, ActivationBins
from flatscale.metrics.probe.point_means import mean_over_points
from flatscale.metrics.registration import RESCALING, metric

_SATURATED = 0.9
"""Share of points alone in their bins from which on the value is that of the bins."""

Terms = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Codes and targets of the points (n,) to each point's term (n,), in bits."""

_information = functools.partial(
    metric,
    passes=("activation_bins",),
    group="information",
    unit="bits",
    value_range="[0, log2 n]",
    observers=("train",),
    source="Shwartz-Ziv & Tishby 2017 (arXiv 1703.00810); limits: Saxe et al. 2018 (ICLR), "
    "Goldfeld et al. 2019 (arXiv 1810.05728)",
)


@_information(
    "input_information",
    formula="Î(X; T) = Ĥ(bin T), T what the last linear layer reads, training set",
    invariances=(RESCALING,),
)
def input_information(bins: ActivationBins) -> Measurement:
    """How many training points the last hidden layer tells apart when its units are binned.

    T is a function of X, so that I(X; T) is the entropy of the bins, here by plug-in. With finer
    bins it grows to log2 n: without bins, I(X; T) of a deterministic network with continuous
    activations is infinite, or log2 n for n points that it keeps apart, and this number says how
    points cluster in the bins, not how much the network has forgotten. A value for each layer,
    named by the linear layer that reads it, and for the outputs.
    """
    return _of_layers("input_information", bins, lambda codes, targets: surprisal(codes))


@_information(
    "label_information",
    formula="Î(T; Y) = Ĥ(bin T) + Ĥ(Y) − Ĥ(bin T, Y), T as above, training set",
    invariances=(RESCALING,),
)
def label_information(bins: ActivationBins) -> Measurement:
    """How much the bins of the last hidden layer say of the label; numbers are binned as T is.

    At most Ĥ(Y), which it reaches where no two points of different labels share their bins: also
    where every point has bins of its own. A value for each layer, as input_information has.
    """
    return _of_layers("label_information", bins, shared_surprisal)


def _of_layers(name: str, bins: ActivationBins, terms: Terms) -> Measurement:
    kept = bins.finite
    targets = bins.targets[kept]
    values = {layer: np.full(len(kept), np.nan) for layer in bins.layers}
    alone = []
    for layer, codes in bins.layers.items():
        values[layer][kept] = terms(codes[kept], targets)
        alone.append(float(np.mean(surprisal(codes[kept]) >= _most(kept))) if kept.any() else 0.0)
    hidden = [layer for layer in bins.layers if layer != OUTPUTS]
    last = hidden[-1] if hidden else OUTPUTS
    share = dict(zip(bins.layers, alone, strict=True))[last]
    note = (
        f"{share:.0%} of the points have bins of their own: the value is near its largest, "
        f"log2 n = {_most(kept):.3g} bits, whatever the network is; fewer bins say more"
    )
    return mean_over_points(
        name,
        values[last],
        num_evaluations=2,
        layers=values,
        extras={"log2_n": (_most(kept),), "share_alone": tuple(alone)},
        note=note if share >= _SATURATED else None,
    )


def _most(kept: np.ndarray) -> float:
    """log2 of the number of points."""
    return float(np.log2(max(int(kept.sum()), 1)))
