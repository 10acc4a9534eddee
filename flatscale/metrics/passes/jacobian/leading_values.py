"""Leading singular values of the Jacobian without its rows: Lanczos on u -> J (J^T u).

One vector-Jacobian and one Jacobian-vector product a step, batched over points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from flatscale.metrics.probe.rounding import Precision, computed_in, rounded_type

SAMPLES_A_ROUND = 4


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """When iterations and draws stop; the options of the Jacobian pass but for its method."""

    tolerance: float = 1e-3
    max_steps: int = 60
    max_relative_error: float = 0.05
    max_samples: int = 64
    precision: Precision = "float32"

    def most_steps(self, rank: int) -> int:
        """Most steps for so many leading values."""
        return self.max_steps + 3 * (rank - 1)


@dataclass(frozen=True, kw_only=True)
class Iterated:
    """Leading singular values (B, r), whether they settled (B,), and the steps it took.

    `leading` is the first left singular vector (B, N), in float64.
    """

    sigma: Tensor
    settled: Tensor
    steps: int
    leading: Tensor


def leading_rows(shard: Shard, *, options: Accuracy, seed: int, rank: int) -> Arrays:
    """Leading singular values of every point's Jacobian (B, rank)."""
    refuse_integers(shard)

    rounded = rounded_type(shard, options.precision) if rank == 1 else None

    def forward(points: slice) -> ForwardPass:
        leaf = shard.x[points].clone().requires_grad_()
        with torch.enable_grad():
            outputs = shard.outputs(leaf).to(leaf.dtype)
        return ForwardPass(x=leaf, outputs=outputs, calls=[])

    def iterated(points: slice, dtype: torch.dtype | None, start: Tensor | None) -> Iterated:
        with twice_differentiable(), computed_in(dtype, shard.x.device):
            ran = forward(points)
            gram = LayerMaps(ran, shard.outputs, of_input=True).gram(0)
            if start is None:
                start = start_rows(seed, shard.indices[points], ran.outputs)
            return leading_values(gram, start, ran.outputs, options, rank)

    def found(points: slice) -> Iterated:
        if rounded is None:
            return iterated(points, None, None)
        coarse = iterated(points, rounded, None)
        confirmed = _confirmed(forward(points), coarse, options.tolerance)
        if confirmed is None:
            confirmed = iterated(points, None, coarse.leading)
        return replace(confirmed, steps=coarse.steps + confirmed.steps)

    def compute(points: slice) -> Arrays:
        x, of_points = shard.x[points], found(points)
        return {
            "sigma": of_points.sigma.cpu().numpy(),
            "settled": of_points.settled.cpu().numpy(),
            "steps": np.full(len(x), of_points.steps),
            "input_norm2": x.flatten(1).double().square().sum(dim=1).cpu().numpy(),
        }

    return shard.rows(compute)


def _confirmed(ran: ForwardPass, coarse: Iterated, tolerance: float) -> Iterated | None:
    """sigma_1 = ||J^T u|| at a coarser arithmetic's u; None where the two are further apart."""
    (pulled,) = torch.autograd.grad(ran.outputs, ran.x, coarse.leading.to(ran.outputs.dtype))
    squares = pulled.flatten(1).double().square().sum(dim=1)
    finite = ran.outputs.detach().isfinite().all(dim=1)
    close = (squares - coarse.sigma[:, 0].square()).abs() <= tolerance * squares
    if not ((close & coarse.settled) | ~finite).all():
        return None
    return replace(coarse, sigma=torch.where(finite, squares.sqrt(), torch.nan)[:, None], steps=1)


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
        before, (ritz, vectors) = values, krylov.eigenpairs()
        ritz = ritz.flip(1)[:, :rank]
        values = torch.nn.functional.pad(ritz, (0, rank - ritz.shape[1]))
        still = ((values - before).abs() <= options.tolerance * values).all(dim=1)
        still &= krylov.num_steps > rank
        settled = (still & still_before) | (krylov.residual_norm <= 1e-9 * values[:, 0])
        still_before = still
        if (settled | ~finite).all() and krylov.num_steps > 1:
            break
    settled = settled | torch.full_like(settled, krylov.num_steps == num_outputs)
    sigma = torch.where(finite[:, None], values.clamp(min=0).sqrt(), torch.nan)
    leading = torch.einsum("bs,bsn->bn", vectors[:, :, -1], krylov.basis)
    return Iterated(sigma=sigma, settled=settled | ~finite, steps=krylov.num_steps, leading=leading)


def start_rows(seed: int, indices: np.ndarray, outputs: Tensor) -> Tensor:
    """A random direction of the outputs for every point (B, N), in float64."""
    size = outputs.shape[1:]
    return normals_of_points(indices, size, torch.float64, seed, 0).to(outputs.device)
