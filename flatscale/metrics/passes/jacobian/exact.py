"""The Jacobian pass: spectra and norms per probe point and layer, or estimates of them.

N vector-Jacobian products with respect to all layer inputs and pre-activations at once. Where
those would not fit into memory, the pass turns to estimates that never hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat

from flatscale.errors import MetricError
from flatscale.metrics.passes.jacobian.batch_rows import exact_rows
from flatscale.metrics.passes.jacobian.estimated import EstimatedJacobians
from flatscale.metrics.passes.jacobian.gradient_routes import find_routes, parameter_names
from flatscale.metrics.passes.jacobian.jacobians import (
    AlongInput,
    GradientNorms,
    Jacobians,
    Leading,
    Sums,
)
from flatscale.metrics.passes.jacobian.leading_values import SAMPLES_A_ROUND, Accuracy
from flatscale.metrics.probe.byte_limits import BATCH_ROWS, CACHED_BATCH_ROWS, POINT_ROWS
from flatscale.metrics.probe.layer_calls import (
    NO_LINEAR_LAYER,
    linear_layer_names,
    points_at_once,
    refuse_integers,
    trace_calls,
)
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.probe.rounding import Precision
from flatscale.metrics.registration import measurement_pass


@measurement_pass("jacobian")
def jacobian_pass(
    observers: Mapping[str, Observer],
    seed: int,
    *,
    method: Literal["auto", "exact", "estimate"] = "auto",
    tolerance: PositiveFloat = 1e-3,
    max_steps: Annotated[int, Field(ge=2)] = 60,
    max_relative_error: PositiveFloat = 0.05,
    max_samples: Annotated[int, Field(ge=2 * SAMPLES_A_ROUND)] = 64,
    precision: Precision = "float32",
) -> Jacobians:
    """Spectra and norms of every probe point's Jacobians, exact where they fit into memory.

    Args:
        observers: the point sets; the probe's is used.
        seed: of start vectors and signs.
        method: exact (all N rows at once), estimate, or auto: estimate where one point's rows and
            their layer-wise parts would exceed 256 MB.
        tolerance: relative change of sigma_1 at which the iteration stops.
        max_steps: most Lanczos steps; three more for every further singular value asked for.
        max_relative_error: of the sums over outputs, over random signs.
        max_samples: most random vectors a point.
        precision: of the steps to the largest singular value of J itself. bfloat16 takes them in
            it, and ends with float32's ||J^T u|| at the vector u found, or goes on in float32 where
            that differs by more than the tolerance. Quicker where processors multiply bfloat16
            quickly; the network must be of float32.
    """
    probe = required(observers, "probe")
    exact = method == "exact"
    if method == "auto":
        exact = probe.once(bytes_of_a_point) <= POINT_ROWS
    if exact:
        return exact_pass(probe)
    accuracy = Accuracy(
        tolerance=tolerance,
        max_steps=max_steps,
        max_relative_error=max_relative_error,
        max_samples=max_samples,
        precision=precision,
    )
    return EstimatedJacobians(probe, accuracy, seed)


@dataclass(frozen=True, kw_only=True)
class ExactJacobians:
    """What the pass found with all N rows of every Jacobian; see `Jacobians`.

    Attributes:
        singular_values: of J_i, descending (n, N).
        layer_names: the linear layers' uses, in forward order (L).
        layer_singular_values: of J_i^l (n, L, N).
        epsilon: rounding unit of the arithmetic the Jacobians were computed in.
    """

    singular_values: np.ndarray
    layer_names: tuple[str, ...]
    layer_singular_values: np.ndarray
    input_norm2: np.ndarray
    along_input: AlongInput
    sums: Sums
    epsilon: float

    @property
    def num_evaluations(self) -> int:
        return self.sums.num_evaluations

    @property
    def squared_norms(self) -> np.ndarray:
        return self.sums.frobenius2

    def leading(self, rank: int | None) -> Leading:
        return self._first(rank, self.singular_values)

    def layer_leading(self, rank: int | None) -> Leading:
        found = self._first(rank, self.layer_singular_values, self.layer_names)
        if not self.layer_names:
            raise MetricError(NO_LINEAR_LAYER)
        return found

    def _first(
        self, rank: int | None, spectra: np.ndarray, layer_names: tuple[str, ...] = ()
    ) -> Leading:
        num_outputs = spectra.shape[-1]
        if rank is not None and rank > num_outputs:
            raise MetricError(f"volume_rank is {rank} but the network has {num_outputs} outputs")
        floor = 8.0 * num_outputs * self.epsilon
        return Leading(
            sigma=spectra[..., :rank],
            floor=floor,
            numerical_rank=(spectra > floor * spectra[..., :1]).sum(axis=-1),
            tolerance=0.0,
            layer_names=layer_names,
            reads_input=self.sums.first_layer_reads_input,
            num_evaluations=self.num_evaluations,
        )


def exact_pass(probe: Observer) -> ExactJacobians:
    """The pass with all N rows of every Jacobian.

    Raises:
        MetricError: no point is finite.
    """
    found = probe.gather(jacobian_points)
    if not found["finite"].any():
        raise MetricError("outputs or derivatives are not finite at any probe point")
    # after the rows, which have found all of it: held still once, not once a fact
    names, layer_names, epsilon = probe.once(facts_of_the_network)
    squares = found["singular_values"] ** 2
    total = squares.sum(axis=1)
    num_evaluations = 1 + squares.shape[1]
    sums = Sums(
        num_evaluations=num_evaluations,
        frobenius2=total,
        dimensionality=total**2 / np.where(total == 0.0, 1.0, (squares**2).sum(axis=1)),
        parameter_names=names,
        parameter_gradient2=found["parameter_gradient2"],
        layer_input_norm2=found["layer_input_norm2"],
        norms=GradientNorms(
            delta2=found["layer_delta_norm2"],
            weight2=found["layer_weight_gradient2"],
            sharpness=found["parameter_gradient2"].sum(axis=1),
            first_layer=found["first_layer"],
        ),
        first_layer_reads_input=bool(found["first_layer_reads_input"].all()),
        finite=found["finite"],
    )
    return ExactJacobians(
        singular_values=found["singular_values"],
        layer_names=layer_names,
        layer_singular_values=found["layer_singular_values"],
        input_norm2=found["input_norm2"],
        along_input=AlongInput(values=found["along_input"], num_evaluations=num_evaluations),
        sums=sums,
        epsilon=epsilon,
    )


def facts_of_the_network(shard: Shard) -> tuple[tuple[str, ...], tuple[str, ...], float]:
    """Names of the parameters and of the linear layers, and the arithmetic's rounding unit."""
    epsilon = torch.finfo(shard.x.dtype).eps
    return parameter_names(shard), linear_layer_names(shard), epsilon


def bytes_of_a_point(shard: Shard) -> float:
    """Bytes that one point's rows take, layer by layer."""
    refuse_integers(shard)
    calls, num_outputs = trace_calls(shard)
    return 4.0 * num_outputs * sum(2 * (c.x.numel() + c.h.numel()) for c in calls)


def jacobian_points(shard: Shard) -> Arrays:
    """The pass on one shard, one row per point; see `ExactJacobians` and `Sums`."""
    refuse_integers(shard)
    # which parameters' gradients follow from what their layer read, found on the first points
    routes = find_routes(shard)
    calls, _ = trace_calls(shard)
    per_point = bytes_of_a_point(shard)
    at_most = points_at_once(calls, BATCH_ROWS, per_point)
    if shard.x.device.type == "cpu":
        at_most = min(at_most, max(4, int(CACHED_BATCH_ROWS / max(per_point, 1))))
    return shard.rows(lambda points: exact_rows(shard, shard.x[points], routes), at_most)
