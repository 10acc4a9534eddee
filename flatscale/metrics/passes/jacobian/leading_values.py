"""Leading singular values of the Jacobian without its rows: Lanczos on u -> J (J^T u).

One vector-Jacobian and one Jacobian-vector product a step, batched over points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from flatscale.metrics.estimators.lanczos import lanczos
from flatscale.metrics.passes.jacobian.derivatives import ForwardPass
from flatscale.metrics.passes.jacobian.layer_maps import LayerMaps
from flatscale.metrics.passes.perturbation.draws import normals_of_points
from flatscale.metrics.probe.attention import twice_differentiable
from flatscale.metrics.probe.layer_calls import refuse_integers
from flatscale.metrics.probe.observers import Arrays, Shard

SAMPLES_A_ROUND = 4


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """When iterations and draws stop; the options of the Jacobian pass but for its method."""

    tolerance: float = 1e-3
    max_steps: int = 60
    max_relative_error: float = 0.05
    max_samples: int = 64

    def most_steps(self, rank: int) -> int:
        """Most steps for so many leading values."""
        return self.max_steps + 3 * (rank - 1)


@dataclass(frozen=True, kw_only=True)
class Iterated:
    """Leading singular values (B, r), whether they settled (B,), and the steps it took."""

    sigma: Tensor
    settled: Tensor
    steps: int


def leading_rows(shard: Shard, *, options: Accuracy, seed: int, rank: int) -> Arrays:
    """Leading singular values of every point's Jacobian (B, rank)."""
    refuse_integers(shard)

    def compute(points: slice) -> Arrays:
        x = shard.x[points]
        with twice_differentiable():
            leaf = x.clone().requires_grad_()
            with torch.enable_grad():
                ran = ForwardPass(x=leaf, outputs=shard.outputs(leaf), calls=[])
            start = start_rows(seed, shard.indices[points], ran.outputs)
            gram = LayerMaps(ran, shard.outputs, of_input=True).gram(0)
            found = leading_values(gram, start, ran.outputs, options, rank)
        return {
            "sigma": found.sigma.cpu().numpy(),
            "settled": found.settled.cpu().numpy(),
            "steps": np.full(len(x), found.steps),
            "input_norm2": x.flatten(1).double().square().sum(dim=1).cpu().numpy(),
        }

    return shard.rows(compute)


def leading_values(
    gram: Callable[[Tensor], Tensor],
    start: Tensor,
    outputs: Tensor,
    options: Accuracy,
    rank: int,
) -> Iterated:
    """By Lanczos, until the rank largest Ritz values stop changing, twice."""
    batch, num_outputs = outputs.shape
    finite = outputs.detach().isfinite().all(dim=1)
    values = torch.zeros(batch, rank, dtype=torch.float64, device=outputs.device)
    settled = still_before = torch.zeros(batch, dtype=torch.bool, device=outputs.device)
    for krylov in islice(lanczos(gram, start), min(options.most_steps(rank), num_outputs)):
        before, ritz = values, krylov.eigenpairs()[0].flip(1)[:, :rank]
        values = torch.nn.functional.pad(ritz, (0, rank - ritz.shape[1]))
        still = ((values - before).abs() <= options.tolerance * values).all(dim=1)
        still &= krylov.num_steps > rank
        settled = (still & still_before) | (krylov.residual_norm <= 1e-9 * values[:, 0])
        still_before = still
        if (settled | ~finite).all() and krylov.num_steps > 1:
            break
    settled = settled | torch.full_like(settled, krylov.num_steps == num_outputs)
    sigma = torch.where(finite[:, None], values.clamp(min=0).sqrt(), torch.nan)
    return Iterated(sigma=sigma, settled=settled | ~finite, steps=krylov.num_steps)


def start_rows(seed: int, indices: np.ndarray, outputs: Tensor) -> Tensor:
    """A random direction of the outputs for every point (B, N), in float64."""
    size = outputs.shape[1:]
    return normals_of_points(indices, size, torch.float64, seed, 0).to(outputs.device)
