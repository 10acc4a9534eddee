"""The Jacobian pass for many outputs: nothing of size outputs x inputs x points is ever held.

Leading singular values by Lanczos on u -> J (J^T u); sums over outputs by Hutchinson's estimator,
from vector-Jacobian products of random signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.estimators.accurate_draws import draw_until_accurate
from flatscale.metrics.passes.jacobian.batch_rows import mixed_rows
from flatscale.metrics.passes.jacobian.gradient_routes import find_routes, parameter_names
from flatscale.metrics.passes.jacobian.jacobians import AlongInput, GradientNorms, Leading, Sums
from flatscale.metrics.passes.jacobian.layer_maps import jacobian_vector_product
from flatscale.metrics.passes.jacobian.layer_subspace import layer_leading_rows
from flatscale.metrics.passes.jacobian.leading_values import (
    SAMPLES_A_ROUND,
    Accuracy,
    leading_rows,
)
from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.probe.attention import attention_notes, twice_differentiable
from flatscale.metrics.probe.byte_limits import SIGNED_ROWS
from flatscale.metrics.probe.layer_calls import (
    linear_layer_names,
    points_at_once,
    refuse_integers,
    trace_calls,
)
from flatscale.metrics.probe.observers import Arrays, Observer, Shard

MOST_ITERATED_VALUES = 32
"""Most leading singular values computed where no Jacobian is held whole."""
_FIRST_ROUNDS = 4


class EstimatedJacobians:
    """What the pass can say of a network with many outputs, each part when first asked for.

    Args:
        observer: the probe.
        options: accuracy and budget.
        seed: of start vectors and signs.
    """

    def __init__(self, observer: Observer, options: Accuracy, seed: int) -> None:
        self._observer, self._options, self._seed = observer, options, seed
        self._leading: dict[tuple[int, bool], Arrays] = {}

    @property
    def num_evaluations(self) -> int:
        steps = sum(int(found["steps"].max()) for found in self._leading.values())
        return 1 + 3 * steps + self.sums.num_evaluations

    @property
    def squared_norms(self) -> np.ndarray:
        return self.sums.frobenius2

    @property
    def input_norm2(self) -> np.ndarray:
        return self._rows(1, layers=False)["input_norm2"]

    @cached_property
    def along_input(self) -> AlongInput:
        values = self._observer.gather(along_input_rows)["along_input"]
        return AlongInput(values=values, num_evaluations=2, notes=self._attention_notes)

    def leading(self, rank: int | None) -> Leading:
        return self._found(rank, layers=False)

    def layer_leading(self, rank: int | None) -> Leading:
        return self._found(rank, layers=True)

    @cached_property
    def sums(self) -> Sums:
        """Sums over outputs, in rounds until the standard errors are small enough."""
        most = self._options.max_samples // SAMPLES_A_ROUND

        def draw(start: int, stop: int) -> list[Arrays]:
            seeds = [draw_seed(self._seed, 1, number) for number in range(start, stop)]
            return [self._observer.gather(signed_rows, seed=seed) for seed in seeds]

        drawn = draw_until_accurate(
            draw,
            _averaged,
            first=min(_FIRST_ROUNDS, most),
            most=most,
            max_relative_error=self._options.max_relative_error,
        )
        names = self._observer.once(parameter_names)
        return replace(drawn.estimate, parameter_names=names, converged=drawn.converged)

    @cached_property
    def _attention_notes(self) -> tuple[str, ...]:
        return attention_notes(self._observer)

    def _rows(self, rank: int, *, layers: bool) -> Arrays:
        key = (rank, layers)
        if key not in self._leading:
            function = layer_leading_rows if layers else leading_rows
            self._leading[key] = self._observer.gather(
                function, options=self._options, seed=self._seed, rank=rank
            )
        return self._leading[key]

    def _found(self, rank: int | None, *, layers: bool) -> Leading:
        if rank is None or rank > MOST_ITERATED_VALUES:
            raise MetricError(
                "needs the whole spectrum of Jacobians whose rows would exceed 256 MB a point: set "
                f"volume_rank to at most {MOST_ITERATED_VALUES} for the leading singular values "
                'alone, or options={"jacobian": {"method": "exact"}} for all of them'
            )
        rows = self._rows(rank, layers=layers)
        return Leading(
            sigma=rows["sigma"],
            floor=8.0 * rank * float(np.finfo(np.float32).eps),
            numerical_rank=None,
            tolerance=0.5 * self._options.tolerance,
            layer_names=self._observer.once(linear_layer_names) if layers else (),
            reads_input=bool(rows["reads_input"].all()) if layers else True,
            converged=bool(rows["settled"].all()),
            num_evaluations=1 + 3 * int(rows["steps"].max()),
            notes=self._attention_notes,
        )


def along_input_rows(shard: Shard) -> Arrays:
    """||J_i x_i||^2 / d (B,)."""
    refuse_integers(shard)

    def compute(points: slice) -> Arrays:
        x = shard.x[points]
        with twice_differentiable():
            along = jacobian_vector_product(shard.outputs, x, x)
        squares = along.double().square().sum(dim=1).cpu().numpy()
        return {"along_input": squares / shard.x[0].numel()}

    return shard.rows(compute)


def signed_rows(shard: Shard, *, seed: int) -> Arrays:
    """Sums over outputs from a few random sign vectors per point."""
    refuse_integers(shard)
    routes = find_routes(shard)
    calls, num_outputs = trace_calls(shard)
    per_point = 4 * SAMPLES_A_ROUND * sum(2 * (c.x.numel() + c.h.numel()) for c in calls)

    def signs(index: int) -> Tensor:
        generator = torch.Generator().manual_seed(draw_seed(seed, index))
        bits = torch.randint(0, 2, (SAMPLES_A_ROUND, num_outputs), generator=generator)
        return 2.0 * bits - 1.0

    def compute(points: slice) -> Arrays:
        mixes = torch.stack([signs(int(i)) for i in shard.indices[points]], dim=1).to(shard.x)
        return mixed_rows(shard, shard.x[points], routes, mixes)

    return shard.rows(compute, points_at_once(calls, SIGNED_ROWS, per_point))


def _averaged(rounds: Sequence[Arrays]) -> Sums:
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
    first = np.stack([r["first_layer"] for r in rounds])
    first[..., [1, 3]] /= count
    norms = GradientNorms(
        delta2=np.stack([r["layer_delta_norm2"] for r in rounds]) / count,
        weight2=np.stack([r["layer_weight_gradient2"] for r in rounds]) / count,
        sharpness=parameters.sum(axis=2),
        first_layer=first,
    )
    samples = squares.transpose(0, 2, 1).reshape(-1, squares.shape[1])
    errors = [_error_of_mean(values[:, finite]) for values in (samples, norms.sharpness)]
    vanishes = (trace2 == 0.0) & (gram2 == 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        dimensionality = trace2 / np.where(vanishes, 1.0, gram2)
    return Sums(
        frobenius2=trace.mean(axis=0),
        dimensionality=dimensionality,
        parameter_names=(),
        parameter_gradient2=parameters.mean(axis=0),
        layer_input_norm2=rounds[0]["layer_input_norm2"],
        norms=norms.each(lambda values: values.mean(axis=0)),
        first_layer_reads_input=bool(rounds[0]["first_layer_reads_input"].all()),
        finite=finite & np.isfinite(norms.sharpness).all(axis=0),
        rounds=norms,
        frobenius_error=errors[0],
        sharpness_error=errors[1],
        converged=False,
        num_evaluations=len(rounds) * (1 + count),
    )


def _error_of_mean(values: np.ndarray) -> float:
    """Standard error over draws (R, n) of the mean over points, whose draws are independent."""
    rounds, points = values.shape
    return float(np.sqrt(values.var(axis=0, ddof=1).sum() / rounds) / points)
