"""The Jacobian pass for many outputs: nothing of size outputs x inputs x points is ever held.

Leading singular values by Lanczos on u -> J (J^T u); sums over outputs by Hutchinson's estimator,
from vector-Jacobian products of random signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.passes.jacobian.gradient_routes import find_routes
from flatscale.metrics.passes.jacobian.layer_subspace import layer_leading_rows
from flatscale.metrics.passes.jacobian.leading_values import (
    SAMPLES_A_ROUND,
    Accuracy,
    jacobian_vector_product,
    leading_rows,
)
from flatscale.metrics.passes.jacobian.rows import mixed_rows, refuse_integers, trace_calls
from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.probe.attention import attention_notes, twice_differentiable
from flatscale.metrics.probe.observers import Arrays, Observer, Shard

_FIRST_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Independent unbiased estimates of every round, for errors of what is computed from them.

    Attributes:
        layer_delta_norm2, layer_weight_gradient2: as in `Sums` (R, n, L).
        sharpness: summed over parameters (R, n).
        first_layer: as in the exact pass (R, n, 4).
    """

    layer_delta_norm2: np.ndarray
    layer_weight_gradient2: np.ndarray
    sharpness: np.ndarray
    first_layer: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Estimates of sums over outputs, per point (n) or point and parameter (n, P).

    Attributes:
        frobenius2: tr G_i.
        dimensionality: (tr G_i)^2 / tr G_i^2.
        parameter_gradient2: sum_k ||grad_p f_k(x_i)||^2.
        parameter_names: P names.
        layer_delta_norm2: ||delta_i^l||_F^2 (n, L).
        layer_weight_gradient2: ||grad_{W_l} f(x_i)||_F^2 (n, L).
        layer_input_norm2: ||x_i^l||^2 (n, L).
        frobenius_error, sharpness_error: Monte-Carlo standard errors of the means over points.
        rounds: what was averaged.
        first_layer_reads_input: whether x^1 is the network's input.
        finite: points whose derivatives are all finite (n,).
        converged: whether both errors are within the asked relative error.
        num_evaluations: per point.
    """

    frobenius2: np.ndarray
    dimensionality: np.ndarray
    parameter_gradient2: np.ndarray
    parameter_names: tuple[str, ...]
    layer_delta_norm2: np.ndarray
    layer_weight_gradient2: np.ndarray
    layer_input_norm2: np.ndarray
    frobenius_error: float
    sharpness_error: float
    rounds: Rounds
    first_layer_reads_input: bool
    finite: np.ndarray
    converged: bool
    num_evaluations: int


class JacobianEstimates:
    """What the pass can say of a network with many outputs, each part when first asked for.

    Args:
        observer: the probe.
        options: accuracy and budget.
        seed: of start vectors and signs.
    """

    def __init__(self, observer: Observer, options: Accuracy, seed: int) -> None:
        self._observer, self._options, self._seed = observer, options, seed
        self._leading: dict[tuple[int, bool], Arrays] = {}

    @cached_property
    def largest(self) -> Arrays:
        """sigma_1 (n, 1), its convergence, steps taken, ||x||^2."""
        return self.leading(1, layers=False)

    def leading(self, rank: int, *, layers: bool) -> Arrays:
        """The rank leading singular values: of J_i (n, rank), or of every J_i^l (n, L, rank)."""
        key = (rank, layers)
        if key not in self._leading:
            function = layer_leading_rows if layers else leading_rows
            self._leading[key] = self._observer.gather(
                function, options=self._options, seed=self._seed, rank=rank
            )
        return self._leading[key]

    @cached_property
    def along_input(self) -> Arrays:
        """||J_i x_i||^2 and the input's size, from one Jacobian-vector product."""
        return self._observer.gather(along_input_rows)

    @cached_property
    def attention_notes(self) -> tuple[str, ...]:
        return attention_notes(self._observer)

    @property
    def squared_norms(self) -> np.ndarray:
        """||J_i||_F^2 = tr J_i J_i^T (n), estimated."""
        return self.sums.frobenius2

    @property
    def tolerance(self) -> float:
        """Asked relative accuracy of sigma^2."""
        return self._options.tolerance

    @property
    def num_evaluations(self) -> int:
        """Network evaluations per point so far, all parts together."""
        steps = sum(int(found["steps"].max()) for found in self._leading.values())
        return 1 + 3 * steps + self.sums.num_evaluations

    @cached_property
    def sums(self) -> Sums:
        """Sums over outputs, in rounds until the standard errors are small enough."""
        rounds: list[Arrays] = []
        most = self._options.max_samples // SAMPLES_A_ROUND
        target = min(_FIRST_ROUNDS, most)
        while True:
            for number in range(len(rounds), target):
                seed = draw_seed(self._seed, 1, number)
                rounds.append(self._observer.gather(signed_rows, seed=seed))
            found = _averaged(rounds, self._options)
            if found.converged or target >= most:
                return found
            target = min(most, 2 * target)


def along_input_rows(shard: Shard) -> Arrays:
    """||J_i x_i||^2 (B,) and d."""
    refuse_integers(shard)

    def compute(points: slice) -> np.ndarray:
        x = shard.x[points]
        with twice_differentiable():
            along = jacobian_vector_product(shard.outputs, x, x)
        return along.double().square().sum(dim=1).cpu().numpy()

    squares = np.concatenate(list(shard.microbatches(compute)))
    size = int(shard.x[0].numel())
    return {"directional2": squares, "input_size": np.full(shard.num_points, size)}


def signed_rows(shard: Shard, *, seed: int) -> Arrays:
    """Sums over outputs from a few random sign vectors per point."""
    refuse_integers(shard)
    routes = find_routes(shard)
    calls, num_outputs = trace_calls(shard)
    per_point = 4 * SAMPLES_A_ROUND * sum(2 * (c.x.numel() + c.h.numel()) for c in calls)
    at_most = max(1, int(64e6 / max(per_point, 1)))
    if any(call.of_one_point(None)[0].folded for call in calls):
        at_most = 1

    def compute(points: slice) -> Arrays:
        indices = shard.indices[points]
        signs = [_signs(seed, int(i), num_outputs) for i in indices]
        mixes = torch.stack(signs, dim=1).to(shard.x)
        return mixed_rows(shard, shard.x[points], routes, mixes)

    parts = list(shard.microbatches(compute, at_most))
    rows = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    names = np.array(routes.names, dtype=np.str_)
    rows["parameter_names"] = np.tile(names, (shard.num_points, 1))
    return rows


def _signs(seed: int, index: int, num_outputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw_seed(seed, index))
    bits = torch.randint(0, 2, (SAMPLES_A_ROUND, num_outputs), generator=generator)
    return 2.0 * bits - 1.0


def _averaged(rounds: list[Arrays], options: Accuracy) -> Sums:
    """Per-point means over rounds; products of two different samples make the squares unbiased."""
    gram = np.stack([r["mixed_gram"] for r in rounds])
    finite = np.isfinite(gram).all(axis=(0, 2, 3))
    if not finite.any():
        raise MetricError("outputs or derivatives are not finite at any probe point")
    squares = np.diagonal(gram, axis1=2, axis2=3)
    count = squares.shape[2]
    trace = squares.mean(axis=2)
    apart = ~np.eye(count, dtype=bool)
    gram2 = (gram[:, :, apart] ** 2).mean(axis=(0, 2))
    trace2 = (squares[..., :, None] * squares[..., None, :])[:, :, apart].mean(axis=(0, 2))
    parameters = np.stack([r["parameter_gradient2"] for r in rounds]) / count
    sharpness = parameters.sum(axis=2)
    samples = squares.transpose(0, 2, 1).reshape(-1, squares.shape[1])
    errors = [_error_of_mean(values[:, finite]) for values in (samples, sharpness)]
    means = [abs(values[:, finite].mean()) for values in (trace, sharpness)]
    within = [e <= options.max_relative_error * m for e, m in zip(errors, means, strict=True)]
    found = _rounds(rounds, sharpness, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        dimensionality = trace2 / gram2
    return Sums(
        frobenius2=trace.mean(axis=0),
        dimensionality=dimensionality,
        parameter_gradient2=parameters.mean(axis=0),
        parameter_names=tuple(str(name) for name in rounds[0]["parameter_names"][0]),
        layer_delta_norm2=found.layer_delta_norm2.mean(axis=0),
        layer_weight_gradient2=found.layer_weight_gradient2.mean(axis=0),
        layer_input_norm2=rounds[0]["layer_input_norm2"],
        frobenius_error=errors[0],
        sharpness_error=errors[1],
        rounds=found,
        first_layer_reads_input=bool(rounds[0]["first_layer_reads_input"].all()),
        finite=finite & np.isfinite(sharpness).all(axis=0),
        converged=all(within),
        num_evaluations=len(rounds) * (1 + count),
    )


def _rounds(rounds: list[Arrays], sharpness: np.ndarray, count: int) -> Rounds:
    first = np.stack([r["first_layer"] for r in rounds])
    first[..., [1, 3]] /= count
    return Rounds(
        layer_delta_norm2=np.stack([r["layer_delta_norm2"] for r in rounds]) / count,
        layer_weight_gradient2=np.stack([r["layer_weight_gradient2"] for r in rounds]) / count,
        sharpness=sharpness,
        first_layer=first,
    )


def _error_of_mean(values: np.ndarray) -> float:
    """Standard error over draws (R, n) of the mean over points, whose draws are independent."""
    rounds, points = values.shape
    return float(np.sqrt(values.var(axis=0, ddof=1).sum() / rounds) / points)
