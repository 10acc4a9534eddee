"""Losses of every point under random perturbations of the weights: what a shard computes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flatscale.metrics.passes.perturbation.draws import draw_seed
from flatscale.metrics.passes.perturbation.perturbed_layers import OutputNoise
from flatscale.metrics.passes.perturbation.perturbed_network import (
    PerturbedNetwork,
    perturbed_network,
)
from flatscale.metrics.probe.byte_limits import (
    DRAWN_ROWS,
    KEPT_GRADIENTS,
    NETWORK_GRADIENTS,
)
from flatscale.metrics.probe.layer_calls import work_of_a_point
from flatscale.metrics.probe.observers import Arrays, Shard
from flatscale.metrics.probe.parameters import call_with, float_parameters
from flatscale.metrics.probe.rounding import Precision, computed_in, rounded_type

_WORTH_A_GRADIENT = 1e8
"""Multiplications of a point from which its gradient, taken alone, costs a few evaluations."""


def parameter_counts(shard: Shard) -> tuple[int, int]:
    """Parameters shifted in the network itself, and weights shared up to signs."""
    network = perturbed_network(shard, adaptive=True)
    shifted = sum(p.numel() for p in network.parameters.values())
    return shifted, sum(weight.numel() for weight in network.shared_weights.values())


def most_gradients(shard: Shard) -> int:
    """Points whose gradients can be held at once; zero where their slopes are not worth it."""
    network = perturbed_network(shard, adaptive=True)
    drawn_at_outputs = any(isinstance(v, OutputNoise) for v in network.before_tail.values())
    if drawn_at_outputs or not network.steered or work_of_a_point(shard) < _WORTH_A_GRADIENT:
        return 0
    parameters = float_parameters(shard.model)
    return int(NETWORK_GRADIENTS / (2 * sum(parameters[n].numel() for n in network.steered)))


def unperturbed_losses(shard: Shard) -> Arrays:
    """Loss of every point as it is, in the network's own precision (B,)."""

    def losses(part: slice) -> Arrays:
        with torch.no_grad():
            found = shard.losses(shard.model(shard.x[part]), shard.y[part])
        return {"loss": found.double().cpu().numpy()}

    return shard.rows(losses)


def perturbed_losses(
    shard: Shard,
    *,
    seed: int,
    rounds: tuple[int, int],
    signs: tuple[int, ...],
    rho: float,
    adaptive: bool,
    group: int,
    precision: Precision = "float32",
    sloped: int = 0,
) -> Arrays:
    """Losses at theta + sign rho S z of every point (B, R, signs), for the rounds [first, last).

    Point i of the set belongs to group i // group, whose points share the z drawn from (seed,
    round, group); what can be perturbed anew for every point is. In the groups that begin below
    `sloped`, "slopes" (B, R) are the part of the loss at +z that is linear in z, from one gradient
    a point, in the others NaN; the last layers are not in it: their odd part cancels in a loss.
    """
    network = perturbed_network(shard, adaptive=adaptive)
    dtype = rounded_type(shard, precision)
    shares = bool(network.parameters or network.shared_weights)
    groups = shard.indices // group if shares else np.zeros(shard.num_points, dtype=int)
    losses = np.empty((shard.num_points, rounds[1] - rounds[0], len(signs)))
    slopes = np.full(losses.shape[:2], np.nan)
    at_most = max(1, int(DRAWN_ROWS / (4 * max(1, network.width))))
    for g in np.unique(groups):
        at = np.flatnonzero(groups == g)
        wanted = int(g) * group < sloped
        gradients = None
        if wanted:
            gradients = _point_gradients(shard, network, at, dtype, keep=len(signs) == 1)
        for column, number in enumerate(range(*rounds)):
            draw = _Draw(
                network=network,
                shared=network.draw_group(draw_seed(seed, number, 0, int(g))),
                labels=(seed, number),
                rho=rho,
                signs=signs,
                dtype=dtype,
            )
            compute = functools.partial(_computed, shard, draw, at, gradients)
            parts = list(shard.batch.run(len(at), compute, at_most))
            losses[at, column] = np.concatenate([part["losses"] for part in parts])
            if wanted:
                slopes[at, column] = np.concatenate([part["slopes"] for part in parts])
    return {"losses": losses, "slopes": slopes}


@dataclass(frozen=True, kw_only=True)
class _Draw:
    """One round of one group; attributes as in `perturbed_losses` and `PerturbedNetwork`."""

    network: PerturbedNetwork
    shared: Mapping[str, Tensor]
    labels: tuple[int, int]
    rho: float
    signs: tuple[int, ...]
    dtype: torch.dtype | None


def _computed(
    shard: Shard,
    draw: _Draw,
    at: np.ndarray,
    gradients: Mapping[str, Tensor] | None,
    part: slice,
) -> Arrays:
    """Losses (B, signs), over both signs of the tail, of a part of these places of the shard."""
    members = torch.from_numpy(at[part]).to(shard.x.device)
    x, y = shard.x[members], shard.y[members]
    rows = draw.network.draw_points(*draw.labels, shard.indices[at[part]], shard.x)
    columns = []
    with torch.no_grad():
        for sign in draw.signs:
            outputs = draw.network.outputs(x, draw.shared, rows, sign * draw.rho, draw.dtype)
            columns.append(torch.stack([shard.losses(o, y).double() for o in outputs]).mean(dim=0))
        found = {"losses": torch.stack(columns, dim=1).cpu().numpy()}
        if gradients is not None:
            own = {name: of_points[part] for name, of_points in gradients.items()}
            slopes = draw.rho * draw.network.slopes(own, draw.shared, rows)
            found["slopes"] = slopes.double().cpu().numpy()
    return found


def _point_gradients(
    shard: Shard,
    network: PerturbedNetwork,
    places: np.ndarray,
    dtype: torch.dtype | None,
    *,
    keep: bool,
) -> dict[str, Tensor]:
    """Gradients of every point's loss (B, ...), rounded: any would do in the mean.

    `keep` keeps those of a shard until `drop_gradients`, if they are few enough.
    """
    kept = shard.kept.setdefault("point_gradients", {}) if keep else {}
    key = (int(places[0]), len(places), dtype)
    if key in kept:
        return kept[key]
    leaves = {
        name: p.detach().requires_grad_()
        for name, p in float_parameters(shard.model).items()
        if name in network.steered
    }

    def compute(part: slice) -> list[Tensor]:
        members = torch.from_numpy(places[part]).to(shard.x.device)
        with torch.enable_grad(), computed_in(dtype, shard.x.device):
            loss = shard.losses(call_with(shard.model, leaves, shard.x[members]), shard.y[members])
        found = torch.autograd.grad(loss.sum(), list(leaves.values()), materialize_grads=True)
        return [g.bfloat16() if g.dtype == torch.float32 else g for g in found]

    of_points = list(shard.batch.run(len(places), compute, 1))
    found = {
        name: torch.stack(of) for name, of in zip(leaves, zip(*of_points, strict=True), strict=True)
    }
    of_shard = sum(g.nbytes for g in found.values()) / len(places) * shard.num_points
    if of_shard <= KEPT_GRADIENTS:
        kept[key] = found
    return found


def drop_gradients(shard: Shard) -> Arrays:
    """Forget what is kept of the points' gradients."""
    shard.kept.pop("point_gradients", None)
    return {}
