"""The Jacobian pass for many outputs: nothing of size outputs x inputs x points is ever held.

sigma_1 by Lanczos on u -> J (J^T u), one vector-Jacobian and one Jacobian-vector product a step;
sums over outputs by Hutchinson's estimator, from vector-Jacobian products of random signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.attention import attention_notes, twice_differentiable
from flatscale.metrics.gradient_routes import find_routes
from flatscale.metrics.jacobian_rows import mixed_rows, refuse_integers, trace_calls
from flatscale.metrics.perturbation import draw_seed
from flatscale.metrics.probe import Arrays, Observer, Shard

_SAMPLES_A_ROUND = 4
_FIRST_ROUNDS = 4


@dataclass(frozen=True, kw_only=True)
class JacobianOptions:
    """Options of the Jacobian pass.

    Attributes:
        method: exact (all N rows at once), estimate, or auto: estimate where one point's rows and
            their layer-wise parts would exceed 256 MB.
        tolerance: relative change of sigma_1 at which the iteration stops.
        max_steps: most Lanczos steps.
        max_relative_error: of the sums over outputs, over random signs.
        max_samples: most random vectors a point.
    """

    method: str = "auto"
    tolerance: float = 1e-3
    max_steps: int = 60
    max_relative_error: float = 0.05
    max_samples: int = 64

    def __post_init__(self) -> None:
        if self.method not in ("auto", "exact", "estimate"):
            raise ValueError(f"method must be auto, exact or estimate; found {self.method!r}")
        if not self.tolerance > 0 or not self.max_relative_error > 0:
            raise ValueError("tolerance and max_relative_error must be positive")
        if self.max_steps < 2 or self.max_samples < 2 * _SAMPLES_A_ROUND:
            raise ValueError("max_steps must be at least 2 and max_samples at least 8")


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Estimates of sums over outputs, per point (n) or point and parameter (n, P).

    Attributes:
        frobenius2: tr G_i.
        dimensionality: (tr G_i)^2 / tr G_i^2.
        parameter_gradient2: sum_k ||grad_p f_k(x_i)||^2.
        parameter_names: P names.
        frobenius_error, sharpness_error: Monte-Carlo standard errors of the means over points.
        converged: whether both are within the asked relative error.
        num_evaluations: per point.
    """

    frobenius2: np.ndarray
    dimensionality: np.ndarray
    parameter_gradient2: np.ndarray
    parameter_names: tuple[str, ...]
    frobenius_error: float
    sharpness_error: float
    converged: bool
    num_evaluations: int


class JacobianEstimates:
    """What the pass can say of a network with many outputs, each part when first asked for.

    Args:
        observer: the probe.
        options: accuracy and budget.
        seed: of start vectors and signs.
    """

    def __init__(self, observer: Observer, options: JacobianOptions, seed: int) -> None:
        self._observer, self._options, self._seed = observer, options, seed

    @cached_property
    def largest(self) -> Arrays:
        """sigma_1 (n), its convergence, steps taken, ||x||^2."""
        return self._observer.gather(largest_rows, options=self._options, seed=self._seed)

    @cached_property
    def along_input(self) -> Arrays:
        """||J_i x_i||^2 and the input's size, from one Jacobian-vector product."""
        return self._observer.gather(along_input_rows)

    @cached_property
    def attention_notes(self) -> tuple[str, ...]:
        return attention_notes(self._observer)

    @cached_property
    def sums(self) -> Sums:
        """Sums over outputs, in rounds until the standard errors are small enough."""
        rounds: list[Arrays] = []
        most = self._options.max_samples // _SAMPLES_A_ROUND
        target = min(_FIRST_ROUNDS, most)
        while True:
            for number in range(len(rounds), target):
                seed = draw_seed(self._seed, 1, number)
                rounds.append(self._observer.gather(signed_rows, seed=seed))
            found = _averaged(rounds, self._options)
            if found.converged or target >= most:
                return found
            target = min(most, 2 * target)


def largest_rows(shard: Shard, *, options: JacobianOptions, seed: int) -> Arrays:
    """sigma_1 of every point's Jacobian by Lanczos on J J^T, batched over points."""
    refuse_integers(shard)

    def compute(points: slice) -> Arrays:
        x, indices = shard.x[points], shard.indices[points]
        with twice_differentiable():
            return _lanczos(shard, x, indices, options, seed)

    parts = list(shard.microbatches(compute))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def along_input_rows(shard: Shard) -> Arrays:
    """||J_i x_i||^2 (B,) and d."""
    refuse_integers(shard)

    def compute(points: slice) -> np.ndarray:
        x = shard.x[points]
        with twice_differentiable():
            along = jacobian_vector_product(shard, x, x)
        return along.double().square().sum(dim=1).cpu().numpy()

    squares = np.concatenate(list(shard.microbatches(compute)))
    size = int(shard.x[0].numel())
    return {"directional2": squares, "input_size": np.full(shard.num_points, size)}


def signed_rows(shard: Shard, *, seed: int) -> Arrays:
    """Sums over outputs from a few random sign vectors per point."""
    refuse_integers(shard)
    routes = find_routes(shard)
    calls, num_outputs = trace_calls(shard)
    per_point = 4 * _SAMPLES_A_ROUND * sum(2 * (c.x.numel() + c.h.numel()) for c in calls)
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


def jacobian_vector_product(shard: Shard, x: Tensor, v: Tensor) -> Tensor:
    """J_i v_i (B, N): forward mode, or twice backward where an operation has no forward mode."""
    try:
        with torch.no_grad():
            return torch.func.jvp(shard.outputs, (x,), (v,))[1]
    except (NotImplementedError, RuntimeError) as error:
        if "forward" not in str(error).lower():
            raise
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        outputs = shard.outputs(x)
        dummy = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, x, dummy, create_graph=True)
        return torch.autograd.grad(pulled, dummy, v)[0]


def _lanczos(
    shard: Shard, x: Tensor, indices: np.ndarray, options: JacobianOptions, seed: int
) -> Arrays:
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        outputs = shard.outputs(leaf)
    batch, num_outputs = outputs.shape
    finite = outputs.isfinite().all(dim=1)
    basis = [_unit(_start(seed, indices, num_outputs).to(x.device))]
    diagonal: list[Tensor] = []
    off: list[Tensor] = []
    largest = torch.zeros(batch, dtype=torch.float64, device=x.device)
    settled = torch.zeros(batch, dtype=torch.bool, device=x.device)
    steps = min(options.max_steps, num_outputs)
    for step in range(steps):
        image = _gram_product(shard, leaf, outputs, basis[-1])
        diagonal.append((image * basis[-1]).sum(dim=1))
        earlier = torch.stack(basis, dim=1)
        for _ in range(2):
            image = image - torch.einsum(
                "bsn,bs->bn", earlier, torch.einsum("bsn,bn->bs", earlier, image)
            )
        before, largest = largest, _tridiagonal_top(diagonal, off)
        length = image.norm(dim=1)
        change = (largest - before).abs()
        settled = (change <= options.tolerance * largest) | (length <= 1e-9 * largest)
        if (settled | ~finite).all() and step > 0:
            break
        off.append(length)
        basis.append(_unit(image))
    settled = settled | torch.full_like(settled, len(diagonal) == num_outputs)
    sigma = torch.where(finite, largest.clamp(min=0).sqrt(), torch.nan)
    return {
        "sigma": sigma.cpu().numpy(),
        "settled": (settled | ~finite).cpu().numpy(),
        "steps": np.full(batch, len(diagonal)),
        "input_norm2": x.flatten(1).double().square().sum(dim=1).cpu().numpy(),
    }


def _gram_product(shard: Shard, leaf: Tensor, outputs: Tensor, u: Tensor) -> Tensor:
    (pulled,) = torch.autograd.grad(outputs, leaf, u.to(outputs.dtype), retain_graph=True)
    pushed = jacobian_vector_product(shard, leaf.detach(), pulled).double()
    return torch.nan_to_num(pushed, nan=0.0, posinf=0.0, neginf=0.0)


def _tridiagonal_top(diagonal: list[Tensor], off: list[Tensor]) -> Tensor:
    matrix = torch.diag_embed(torch.stack(diagonal, dim=1))
    if off:
        side = torch.stack(off, dim=1)
        matrix = matrix + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
    return torch.linalg.eigvalsh(matrix)[:, -1]


def _start(seed: int, indices: np.ndarray, num_outputs: int) -> Tensor:
    rows = []
    for index in indices:
        generator = torch.Generator().manual_seed(draw_seed(seed, 0, int(index)))
        rows.append(torch.randn(num_outputs, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _signs(seed: int, index: int, num_outputs: int) -> Tensor:
    generator = torch.Generator().manual_seed(draw_seed(seed, index))
    bits = torch.randint(0, 2, (_SAMPLES_A_ROUND, num_outputs), generator=generator)
    return 2.0 * bits - 1.0


def _unit(u: Tensor) -> Tensor:
    return u / u.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _averaged(rounds: list[Arrays], options: JacobianOptions) -> Sums:
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
    with np.errstate(divide="ignore", invalid="ignore"):
        dimensionality = trace2 / gram2
    return Sums(
        frobenius2=trace.mean(axis=0),
        dimensionality=dimensionality,
        parameter_gradient2=parameters.mean(axis=0),
        parameter_names=tuple(str(name) for name in rounds[0]["parameter_names"][0]),
        frobenius_error=errors[0],
        sharpness_error=errors[1],
        converged=all(within),
        num_evaluations=len(rounds) * (1 + count),
    )


def _error_of_mean(values: np.ndarray) -> float:
    """Standard error over draws (R, n) of the mean over points, whose draws are independent."""
    rounds, points = values.shape
    return float(np.sqrt(values.var(axis=0, ddof=1).sum() / rounds) / points)
