"""Leading singular values of every layer's Jacobian at once, from one subspace of the outputs.

One vector-Jacobian product gives J^l^T q for all layers l, so a basis Q of k directions gives every
projected Gram matrix Q^T J^l J^l^T Q (Rayleigh-Ritz). One Jacobian-vector product, with a tangent
at every layer, gives a sum over layers of J^l J^l^T u^l with random signs: the next direction, and
its part outside Q is an unbiased estimate of all layers' residuals together.

The layers of a trained network share their sensitive output directions, and some twenty directions
serve them all. Where they do not (random weights), every layer is iterated for alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.estimators.lanczos import unit
from flatscale.metrics.passes.jacobian.batch_rows import reads_input
from flatscale.metrics.passes.jacobian.derivatives import ForwardPass, run_forward
from flatscale.metrics.passes.jacobian.layer_maps import LayerMaps
from flatscale.metrics.passes.jacobian.leading_values import (
    Accuracy,
    leading_values,
    start_rows,
)
from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.probe.attention import twice_differentiable
from flatscale.metrics.probe.byte_limits import ALL_STORED_PRODUCTS, STORED_PRODUCTS
from flatscale.metrics.probe.layer_calls import (
    NO_LINEAR_LAYER,
    points_at_once,
    refuse_integers,
    trace_calls,
)
from flatscale.metrics.probe.observers import Arrays, Shard

_BLOCK = 8
_EXPECTED_DIRECTIONS = 24
_FIRST_DIRECTIONS = 8
_NEARING = 3.2
"""A common subspace is given up where, after some directions k, the error exceeds this over k."""
_SMALLEST_GAP = 0.05
"""Relative distance between neighbouring eigenvalues below which they count as one cluster."""
_FRESH_SHARE = 0.1
"""How much of a start vector is random where a layer is iterated for alone."""


def layer_leading_rows(shard: Shard, *, options: Accuracy, seed: int, rank: int) -> Arrays:
    """Leading singular values at every linear layer's input (B, L, rank)."""
    refuse_integers(shard)
    calls = [call for call in trace_calls(shard)[0] if call.is_linear]
    if not calls:
        raise MetricError(NO_LINEAR_LAYER)

    def compute(points: slice) -> Arrays:
        indices = shard.indices[points]
        with twice_differentiable():
            ran = run_forward(shard, shard.x[points])
            found = _leading(ran, shard, options, seed, indices, rank)
        first = next(call for call in ran.calls if call.is_linear)
        return found | {"reads_input": reads_input(first, ran.x)}

    # as many points as their products with some directions may be held of
    a_point = 4.0 * _EXPECTED_DIRECTIONS * sum(call.x.numel() for call in calls)
    limit = STORED_PRODUCTS.get(shard.x.device.type, STORED_PRODUCTS["cpu"])
    return shard.rows(compute, points_at_once(calls, limit, a_point))


def _leading(
    ran: ForwardPass,
    shard: Shard,
    options: Accuracy,
    seed: int,
    indices: np.ndarray,
    rank: int,
) -> Arrays:
    maps = LayerMaps(ran, shard.outputs)
    start = start_rows(seed, indices, ran.outputs)
    signs = [torch.Generator().manual_seed(draw_seed(seed, 2, int(i))) for i in indices]
    search = SubspaceSearch(maps, start, options, rank, signs)
    search.run()
    values, settled, steps = search.values, search.settled, search.subspace.size
    if not settled.all():
        starts = search.leading_directions()
        alone = [
            leading_values(
                maps.gram(layer),
                unit(unit(starts[layer]) + _FRESH_SHARE * unit(start)),
                ran.outputs,
                options,
                rank,
            )
            for layer in range(maps.num_layers)
        ]
        # both are lower bounds
        values = torch.maximum(values, torch.stack([f.sigma.square() for f in alone], dim=1))
        settled = settled | torch.stack([f.settled for f in alone]).all(dim=0)
        steps += sum(f.steps for f in alone)
    sigma = torch.where(maps.finite[:, None, None], values.sqrt(), torch.nan)
    return {
        "sigma": sigma.cpu().numpy(),
        "settled": settled.cpu().numpy(),
        "steps": np.full(len(indices), steps),
    }


class SubspaceSearch:
    """A subspace grown until the eigenvalues of all J^l J^l^T are within the tolerance.

    An eigenvalue theta with residual norm r and relative gap g is in error by r^2 / (g theta^2):
    settled where the mean of it over layers and values (its estimate, averaged over two steps, at a
    gap of at least 5%), and the last change of every value, are at most the tolerance.

    Attributes:
        values: leading eigenvalues of J_i^l J_i^l^T, descending, from below (B, L, rank).
        settled: (B,); points that are not finite count as settled.
        subspace: what was searched.
    """

    def __init__(
        self,
        maps: LayerMaps,
        start: Tensor,
        options: Accuracy,
        rank: int,
        signs: list[torch.Generator],
    ) -> None:
        self._maps, self._options, self._rank, self._signs = maps, options, rank, signs
        self._start = start
        shape = (len(start), maps.num_layers, rank)
        self.values = torch.zeros(shape, dtype=torch.float64, device=start.device)
        self.settled = ~maps.finite
        self.subspace = Subspace(maps)
        self._vectors: Tensor | None = None

    def run(self) -> None:
        q, num_outputs = unit(self._start), self._start.shape[1]
        last = torch.full_like(self._start[:, 0], torch.inf)
        held = self._maps.floats * len(q) * 4.0
        room = ALL_STORED_PRODUCTS.get(q.device.type, ALL_STORED_PRODUCTS["cpu"])
        fits = int(room / held)
        most = min(self._options.most_steps(self._rank), num_outputs, max(fits, 2))
        tolerance, size = self._options.tolerance, self.values[0].numel()
        while not self.settled.all():
            self.subspace.add(q)
            before = self.values
            self.values, self._vectors, gaps = self.subspace.ritz(self._rank)
            if self.subspace.size == num_outputs:
                self.settled = torch.ones_like(self.settled)
            if self.subspace.size == most:
                return
            signs = self._draw_signs()
            q, residual = self.subspace.next_direction(self.values, self._vectors, gaps, signs)
            error = residual / size
            still = ((self.values - before).abs() <= tolerance * self.values).flatten(1).all(dim=1)
            near = ((error + last) / 2 <= tolerance) & (self.subspace.size > self._rank)
            self.settled = (still & near) | (residual <= 1e-12) | ~self._maps.finite
            far = (self.subspace.size * (error + last) / 2 > _NEARING) & ~self.settled
            last = error
            if self.subspace.size >= max(_FIRST_DIRECTIONS, 2 * self._rank) and far.any():
                return

    def leading_directions(self) -> list[Tensor]:
        """Every layer's leading direction of the outputs as found so far (B, N)."""
        if self._vectors is None:
            return [self._start] * self._maps.num_layers
        return [self.subspace.in_outputs(v[..., 0]) for v in self._vectors.unbind(dim=1)]

    def _draw_signs(self) -> Tensor:
        shape = self.values.shape[1:]
        rows = [torch.randint(0, 2, shape, generator=g) * 2.0 - 1.0 for g in self._signs]
        return torch.stack(rows).to(self.values)


class Subspace:
    """A growing orthonormal basis of the outputs with every layer's J^l^T q kept.

    Args:
        maps: the layers' Jacobians.
    """

    def __init__(self, maps: LayerMaps) -> None:
        self._maps = maps
        self._directions: list[Tensor] = []
        self._pulled: list[Tensor] = []
        self._gram: Tensor | None = None

    @property
    def size(self) -> int:
        return len(self._directions)

    def add(self, q: Tensor) -> None:
        """One more direction (B, N)."""
        pulled, place = self._maps.pull(q), self.size
        if place % _BLOCK == 0:
            self._pulled.append(pulled.new_empty(len(pulled), _BLOCK, pulled.shape[1]))
        self._pulled[-1][:, place % _BLOCK] = pulled
        self._directions.append(q)
        # by point and layer: matrix-vector products, four times faster here than batched ones
        row = torch.stack([self._products(i, p) for i, p in enumerate(pulled)]).double()
        gram = row.new_zeros(*row.shape[:2], place + 1, place + 1)
        if self._gram is not None:
            gram[:, :, :place, :place] = self._gram
        gram[:, :, place], gram[:, :, :, place] = row, row
        self._gram = torch.nan_to_num(gram, nan=0.0, posinf=0.0, neginf=0.0)

    def ritz(self, rank: int) -> tuple[Tensor, Tensor, Tensor]:
        """Largest eigenvalues (B, L, rank), their vectors (B, L, k, rank), and relative gaps."""
        assert self._gram is not None
        values, vectors = torch.linalg.eigh(self._gram)
        values, vectors = values.flip(2).clamp(min=0.0), vectors.flip(3)
        short = max(0, rank + 1 - values.shape[2])
        values = nn.functional.pad(values, (0, short))
        vectors = nn.functional.pad(vectors, (0, short))[..., :rank]
        kept, following = values[..., :rank], values[..., rank : rank + 1]
        gaps = (kept - following) / kept.clamp(min=1e-300)
        return kept, vectors, gaps.clamp(min=_SMALLEST_GAP)

    def next_direction(
        self, values: Tensor, vectors: Tensor, gaps: Tensor, signs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A signed sum of all residuals, as a direction outside the basis, and its squared norm."""
        weights = signs / (values * gaps.sqrt()).clamp(min=1e-300)
        weights = torch.where(values > 0, weights, torch.zeros_like(weights))
        mix = torch.einsum("blkr,blr->blk", vectors, weights).to(self._pulled[0].dtype)
        tangent = torch.zeros_like(self._pulled[0][:, 0])
        for block, parts in zip(self._used(), mix.split(_BLOCK, dim=2), strict=True):
            for i in range(len(tangent)):
                for layer, at in enumerate(self._maps.places):
                    tangent[i, at] += parts[i, layer] @ block[i, :, at]
        image = self._maps.push(tangent)
        basis = torch.stack(self._directions, dim=1)
        outside = _outside(basis, image)
        length = outside.norm(dim=1, keepdim=True)
        outside = _outside(basis, outside / length.clamp(min=1e-300))
        return unit(outside), length[:, 0].square()

    def _used(self) -> list[Tensor]:
        """The stored products J^l^T q by block (B, at most 8, sum of d_l)."""
        counts = [min(_BLOCK, self.size - _BLOCK * i) for i in range(len(self._pulled))]
        return [block[:, :k] for block, k in zip(self._pulled, counts, strict=True)]

    def _products(self, point: int, pulled: Tensor) -> Tensor:
        """q_j^T J^l J^l^T q of one point, for all j and layers (L, k)."""
        used = self._used()
        rows = [torch.cat([b[point, :, at] @ pulled[at] for b in used]) for at in self._maps.places]
        return torch.stack(rows)

    def in_outputs(self, vectors: Tensor) -> Tensor:
        """Vectors (B, k) of the basis as directions of the outputs (B, N)."""
        return torch.einsum("bkn,bk->bn", torch.stack(self._directions, dim=1), vectors)


def _outside(basis: Tensor, u: Tensor) -> Tensor:
    return u - torch.einsum("bsn,bs->bn", basis, torch.einsum("bsn,bn->bs", basis, u))
