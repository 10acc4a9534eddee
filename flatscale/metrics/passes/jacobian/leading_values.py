"""Leading singular values of the Jacobian without its rows: Lanczos on u -> J (J^T u).

One vector-Jacobian and one Jacobian-vector product a step, batched over points.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from flatscale.metrics.estimators.lanczos import Krylov, lanczos
from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.probe.attention import twice_differentiable
from flatscale.metrics.probe.layer_calls import refuse_integers
from flatscale.metrics.probe.microbatch import is_out_of_memory
from flatscale.metrics.probe.observers import Arrays, Shard

logger = logging.getLogger(__name__)

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
class Leading:
    """Leading singular values (B, r), whether they settled (B,), steps, and u_1 (B, N)."""

    sigma: Tensor
    settled: Tensor
    steps: int
    vector: Tensor


def leading_rows(shard: Shard, *, options: Accuracy, seed: int, rank: int) -> Arrays:
    """Leading singular values of every point's Jacobian (B, rank)."""
    refuse_integers(shard)

    def compute(points: slice) -> Arrays:
        x = shard.x[points]
        with twice_differentiable():
            leaf = x.clone().requires_grad_()
            with torch.enable_grad():
                outputs = shard.outputs(leaf)
            start = start_rows(seed, shard.indices[points], outputs)
            gram = _gram_product(outputs, leaf, shard.outputs, x)
            found = leading_values(gram, start, outputs, options, rank)
        return {
            "sigma": found.sigma.cpu().numpy(),
            "settled": found.settled.cpu().numpy(),
            "steps": np.full(len(x), found.steps),
            "input_norm2": x.flatten(1).double().square().sum(dim=1).cpu().numpy(),
        }

    parts = list(shard.microbatches(compute))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def jacobian_vector_product(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """J_i v_i (B, N): forward mode, or twice backward where an operation has no forward mode."""
    try:
        with torch.no_grad():
            return torch.func.jvp(function, (x,), (v,))[1]
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error).lower():
            raise
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        outputs = function(x)
        dummy = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, x, dummy, create_graph=True)
        return torch.autograd.grad(pulled, dummy, v)[0]


def leading_values(
    gram: Callable[[Tensor], Tensor],
    start: Tensor,
    outputs: Tensor,
    options: Accuracy,
    rank: int,
) -> Leading:
    """By Lanczos, until the rank largest Ritz values stop changing, twice."""
    batch, num_outputs = outputs.shape
    finite = outputs.detach().isfinite().all(dim=1)
    values = torch.zeros(batch, rank, dtype=torch.float64, device=outputs.device)
    settled = still_before = torch.zeros(batch, dtype=torch.bool, device=outputs.device)
    for krylov in islice(lanczos(gram, start), min(options.most_steps(rank), num_outputs)):
        before, (values, ritz) = values, _largest(krylov, rank)
        still = ((values - before).abs() <= options.tolerance * values).all(dim=1)
        still &= krylov.num_steps > rank
        settled = (still & still_before) | (krylov.residual_norm <= 1e-9 * values[:, 0])
        still_before = still
        if (settled | ~finite).all() and krylov.num_steps > 1:
            break
    settled = settled | torch.full_like(settled, krylov.num_steps == num_outputs)
    sigma = torch.where(finite[:, None], values.clamp(min=0).sqrt(), torch.nan)
    return Leading(
        sigma=sigma,
        settled=settled | ~finite,
        steps=krylov.num_steps,
        vector=torch.einsum("bsn,bs->bn", krylov.basis, ritz),
    )


def _gram_product(
    outputs: Tensor, leaf: Tensor, function: Callable[[Tensor], Tensor], at: Tensor
) -> Callable[[Tensor], Tensor]:
    """u -> J (J^T u), J the derivative of function at `at`, whose graph leads from leaf.

    J v comes from the graph of w -> J^T w, kept over all steps, as its own transpose: no forward
    pass a step. In forward mode where that graph cannot be built.
    """
    dummy = torch.zeros_like(outputs, requires_grad=True)
    kept: Tensor | None = None
    try:
        with torch.enable_grad():
            (kept,) = torch.autograd.grad(
                outputs, leaf, dummy, create_graph=True, allow_unused=True
            )
        if kept is None:
            return torch.zeros_like
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        logger.info("Jacobian-vector products in forward mode (%s)", error)

    def product(u: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(outputs, leaf, u.to(outputs.dtype), retain_graph=True)
        if kept is None or not kept.requires_grad:
            pushed = jacobian_vector_product(function, at, pulled)
        else:
            (pushed,) = torch.autograd.grad(kept, dummy, pulled, retain_graph=True)
        return torch.nan_to_num(pushed.double(), nan=0.0, posinf=0.0, neginf=0.0)

    return product


def _largest(krylov: Krylov, rank: int) -> tuple[Tensor, Tensor]:
    """The largest Ritz values (B, rank), zeros where there are fewer, and the first's vector."""
    values, vectors = krylov.eigenpairs()
    found = values.flip(1)[:, :rank]
    return torch.nn.functional.pad(found, (0, rank - found.shape[1])), vectors[:, :, -1]


def start_rows(seed: int, indices: np.ndarray, outputs: Tensor) -> Tensor:
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(draw_seed(seed, 0, int(index)))
        rows.append(torch.randn(outputs.shape[1], generator=generator, dtype=torch.float64))
    return torch.stack(rows).to(outputs.device)
