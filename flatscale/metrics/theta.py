"""theta as one vector, and the loss as a function of it: value, gradient, curvature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.attention import attention_notes, twice_differentiable
from flatscale.metrics.gradient_routes import float_parameters
from flatscale.metrics.probe import Arrays, Observer, Shard


@dataclass(frozen=True, kw_only=True)
class LossSurface:
    """The mean loss over an observer's finite points, as a function of a shift of theta.

    Attributes:
        observer: the model held against the points.
        theta: the parameters as one vector (P,), in the model's own dtype.
        left_out: points whose loss is not finite at theta.
        num_points: points that count.
        loss: mean loss at theta.
        notes: what measurements must say.
    """

    observer: Observer
    theta: np.ndarray
    left_out: tuple[int, ...]
    num_points: int
    loss: float
    notes: tuple[str, ...]

    def losses(self, shifts: np.ndarray) -> np.ndarray:
        """Mean loss at theta + each row of shifts (K, P): (K,)."""
        total = self.observer.total(shifted_losses, shifts=shifts, left_out=self.left_out)
        return total["loss"] / self.num_points

    def gradient(self, shift: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean loss and its gradient (P,) at theta + shift."""
        total = self.observer.total(loss_gradient, shift=shift, left_out=self.left_out)
        return float(total["loss"]) / self.num_points, total["gradient"] / self.num_points

    def hessian_products(self, vectors: np.ndarray) -> np.ndarray:
        """H v for each row of vectors (K, P), H the Hessian of the mean loss at theta."""
        total = self.observer.total(hessian_products, vectors=vectors, left_out=self.left_out)
        return total["products"] / self.num_points


def loss_surface(observer: Observer) -> LossSurface:
    """The loss surface of an observer at its model's parameters.

    Raises:
        MetricError: no parameters, or no point with a finite loss.
    """
    found = observer.gather(finite_loss_rows)
    theta = observer.total(theta_once)
    losses = found["loss"]
    bad = tuple(int(i) for i in np.flatnonzero(~np.isfinite(losses)))
    if len(bad) == len(losses):
        raise MetricError("the loss is not finite at any point")
    vector = theta["theta"] / theta["shards"]
    if not vector.size:
        raise MetricError("the network has no floating-point parameter")
    notes = attention_notes(observer)
    if bad:
        shown = ", ".join(str(i) for i in bad[:10])
        notes = (f"{len(bad)} of {len(losses)} points left out, not finite: {shown}", *notes)
    return LossSurface(
        observer=observer,
        theta=vector,
        left_out=bad,
        num_points=len(losses) - len(bad),
        loss=float(losses[np.isfinite(losses)].mean()),
        notes=notes,
    )


def finite_loss_rows(shard: Shard) -> Arrays:
    """The loss of each point; NaN where the outputs are not finite."""

    def compute(points: slice) -> np.ndarray:
        with torch.no_grad():
            logits = shard.logits(shard.x[points])
            losses = shard.losses(logits, shard.y[points]).double()
        finite = logits.isfinite().all(dim=1)
        return torch.where(finite, losses, torch.full_like(losses, torch.nan)).cpu().numpy()

    return {"loss": np.concatenate(list(shard.microbatches(compute)))}


def theta_once(shard: Shard) -> Arrays:
    """theta in float64, and how many shards were added up."""
    flat = [p.detach().double().reshape(-1) for p in float_parameters(shard.model).values()]
    vector = torch.cat(flat).cpu().numpy() if flat else np.zeros(0)
    return {"theta": vector, "shards": np.ones(1)}


def shifted_losses(shard: Shard, *, shifts: np.ndarray, left_out: tuple[int, ...]) -> Arrays:
    """Summed loss at theta + each shift (K,)."""
    shard = shard.without(left_out)
    sums = np.zeros(len(shifts))
    for k, shift in enumerate(shifts):
        moved = shifted_parameters(shard, shift)
        sums[k] = sum(shard.microbatches(partial(_sum_of_losses, shard, moved)))
    return {"loss": sums}


def loss_gradient(shard: Shard, *, shift: np.ndarray, left_out: tuple[int, ...]) -> Arrays:
    """Summed loss and its gradient at theta + shift."""
    shard = shard.without(left_out)
    leaves = {n: p.requires_grad_() for n, p in shifted_parameters(shard, shift).items()}

    def compute(points: slice) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            loss = _batch_loss(shard, leaves, points)
            gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        return float(loss.detach()), _flat(gradients, leaves)

    total, gradient = 0.0, np.zeros(len(shift))
    for value, part in shard.microbatches(compute):
        total += value
        gradient += part
    return {"loss": np.array(total), "gradient": gradient}


def hessian_products(shard: Shard, *, vectors: np.ndarray, left_out: tuple[int, ...]) -> Arrays:
    """Summed Hessian-vector products (K, P): one gradient graph, then a backward pass a vector."""
    shard = shard.without(left_out)
    leaves = {
        name: p.detach().requires_grad_() for name, p in float_parameters(shard.model).items()
    }
    directions = [_unflatten(vector, leaves) for vector in vectors]

    def compute(points: slice) -> np.ndarray:
        with torch.enable_grad(), twice_differentiable():
            loss = _batch_loss(shard, leaves, points)
            gradients = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=True, allow_unused=True
            )
            curved = [
                (gradient, name)
                for gradient, name in zip(gradients, leaves, strict=True)
                if gradient is not None and gradient.requires_grad
            ]
            rows = [_product(curved, direction, leaves) for direction in directions]
        return np.stack(rows)

    products = np.zeros(vectors.shape)
    for part in shard.microbatches(compute):
        products += part
    return {"products": products}


def shifted_parameters(shard: Shard, shift: np.ndarray) -> dict[str, Tensor]:
    """theta + shift, as new tensors by name."""
    parameters = {name: p.detach() for name, p in float_parameters(shard.model).items()}
    moves = _unflatten(shift, parameters)
    return {name: p + moves[name] for name, p in parameters.items()}


def _product(
    curved: list[tuple[Tensor, str]], direction: Mapping[str, Tensor], leaves: dict[str, Tensor]
) -> np.ndarray:
    if not curved:
        return np.zeros(sum(p.numel() for p in leaves.values()))
    products = torch.autograd.grad(
        [gradient for gradient, _ in curved],
        list(leaves.values()),
        [direction[name] for _, name in curved],
        retain_graph=True,
        allow_unused=True,
    )
    return _flat(products, leaves)


def _batch_loss(shard: Shard, parameters: dict[str, Tensor], points: slice) -> Tensor:
    logits = torch.func.functional_call(shard.model, parameters, (shard.x[points],))
    return shard.losses(logits, shard.y[points]).sum()


def _sum_of_losses(shard: Shard, parameters: dict[str, Tensor], points: slice) -> float:
    with torch.no_grad():
        logits = torch.func.functional_call(shard.model, parameters, (shard.x[points],))
        return float(shard.losses(logits, shard.y[points]).double().sum())


def _unflatten(vector: np.ndarray, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    pieces, start = {}, 0
    for name, p in like.items():
        part = torch.tensor(vector[start : start + p.numel()], dtype=p.dtype, device=p.device)
        pieces[name] = part.reshape(p.shape)
        start += p.numel()
    return pieces


def _flat(values: tuple[Tensor | None, ...], like: Mapping[str, Tensor]) -> np.ndarray:
    parts = [
        torch.zeros_like(p).reshape(-1) if value is None else value.detach().reshape(-1)
        for value, p in zip(values, like.values(), strict=True)
    ]
    return torch.cat(parts).double().cpu().numpy()
