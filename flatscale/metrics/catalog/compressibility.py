"""How far the weights can be compressed before the test loss rises: a flat minimum's other side."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from flatscale.errors import MetricError
from flatscale.measurement import Measurement
from flatscale.metrics.passes.compressed_weights import Compression, LayerRanks
from flatscale.metrics.probe.point_means import left_out_note
from flatscale.metrics.registration import metric

_compressibility = functools.partial(metric, group="compressibility", observers=("test",))


@_compressibility(
    "prunable_share",
    passes=("pruned_weights",),
    formula="max s: test loss(w 1[|w| above its s-quantile]) − test loss(w) ≤ tolerance",
    value_range="[0, 1]",
    source="magnitude pruning: Han et al. 2015 (arXiv 1506.02626)",
)
def prunable_share(found: Compression) -> Measurement:
    """Largest share of all weights, the smallest first, that can become zero.

    Over all layers together, without retraining. Assumes that the loss does not fall again as more
    weights go. The standard error is a bootstrap over test points.
    """
    share = found.level / found.top
    return _measured("prunable_share", share, found, found.draws / found.top, found.rises)


@_compressibility(
    "quantization_bits",
    passes=("quantized_weights",),
    formula="min b: test loss(round_b(w)) − test loss(w) ≤ tolerance, steps max|w|/(2^(b−1) − 1)",
    unit="bits",
    value_range="[2, 23]",
    source="uniform symmetric quantization per tensor: Jacob et al. 2018 (arXiv 1712.05877)",
)
def quantization_bits(found: Compression) -> Measurement:
    """Fewest bits per weight to which every weight tensor can be rounded.

    The standard error is a bootstrap over test points.

    Raises:
        MetricError: the most bits tried raise the loss too much.
    """
    most = found.top + 1
    if found.level == 0:
        raise MetricError(
            f"even {most} bits raise the loss by {found.rises[1]:.3g}, more than the tolerance"
        )
    bits = {most + 1 - level: rise for level, rise in found.rises.items() if level}
    return _measured("quantization_bits", most + 1 - found.level, found, found.draws, bits)


@_compressibility(
    "lowest_rank_share",
    passes=("truncated_layers",),
    formula="mean_l (min r: test loss(SVD_r(W_l)) − test loss(W_l) ≤ tolerance) / full rank of W_l",
    value_range="[0, 1]",
    source="Denton et al. 2014 (arXiv 1404.0736)",
)
def lowest_rank_share(found: LayerRanks) -> Measurement:
    """Lowest rank of a layer's weights as a share of full rank, mean over layers.

    Each layer is cut alone, the others as they are; the layers' ranks stand beside the value.
    Kernels count as matrices of output channels by the rest. Assumes that the loss does not fall
    again at lower ranks. The standard error is a bootstrap over test points.
    """
    ranks = {name: found.full[name] - cut.level for name, cut in found.cut.items()}
    shares = np.mean([ranks[name] / full for name, full in found.full.items()])
    draws = np.mean([1 - cut.draws / cut.top for cut in found.cut.values()], axis=0)
    one, *_ = found.cut.values()
    spent = 1 + sum(len(cut.rises) - 1 for cut in found.cut.values())
    layers = {
        f".{name}".removesuffix(".weight")[1:] or "model": float(ranks[name]) for name in ranks
    }
    return _measured("lowest_rank_share", float(shares), one, draws, {}, layers=layers, spent=spent)


def _layer(weight: str) -> str:
    """The layer of a weight; the network itself as a layer is called `model`."""
    return f".{weight}".removesuffix(".weight")[1:] or "model"


def _measured(
    name: str,
    value: float,
    found: Compression,
    draws: np.ndarray,
    rises: Mapping[int, float],
    *,
    layers: Mapping[str, float] | None = None,
    spent: int | None = None,
) -> Measurement:
    kept = int((~found.lost).sum())
    levels = {"levels": tuple(map(float, rises)), "rises": tuple(rises.values())}
    return Measurement(
        name=name,
        value=float(value),
        std_error=float(np.std(draws, ddof=1)) if kept > 1 else None,
        num_evaluations=spent or len(found.rises),
        num_points=kept,
        reason=left_out_note("loss not finite", found.lost) if found.lost.any() else None,
        layers=layers or {},
        extras=levels if rises else {},
    )
