"""theta as one vector, and the loss as a function of it: value, gradient, curvature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.estimators.symmetric_operator import SymmetricOperator
from flatscale.metrics.probe.attention import attention_notes, twice_differentiable
from flatscale.metrics.probe.byte_limits import GRADIENT_GRAPH
from flatscale.metrics.probe.layer_calls import trace_calls
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.probe.parameters import call_with, float_parameters
from flatscale.metrics.probe.point_means import left_out_note
from flatscale.metrics.registration import measurement_pass


@dataclass(frozen=True, kw_only=True)
class LossSurface:
    """The mean loss over an observer's finite points, as a function of a shift of theta.

    Attributes:
        observer: the model held against the points.
        theta: the parameters as one vector (P,), in float64.
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

    def gradient(self, shift: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean loss and its gradient (P,) at theta + shift."""
        total = self.observer.total(loss_gradient, shift=shift, left_out=self.left_out)
        return float(total["loss"]) / self.num_points, total["gradient"] / self.num_points

    @property
    def hessian(self) -> SymmetricOperator:
        """H, the Hessian of the mean loss at theta (P, P)."""
        return SymmetricOperator(size=len(self.theta), products=self._hessian_products)

    def _hessian_products(self, vectors: np.ndarray) -> np.ndarray:
        total = self.observer.total(hessian_products, vectors=vectors, left_out=self.left_out)
        return total["products"] / self.num_points


@measurement_pass("loss_surface")
def loss_surface(observers: Mapping[str, Observer], seed: int) -> LossSurface:
    """The loss over the probe at the model's parameters: asked for once, by six passes.

    Args:
        observers: the point sets; the probe's is used.
        seed: not used.

    Raises:
        MetricError: no parameters, or no point with a finite loss.
    """
    observer = required(observers, "probe")
    losses = observer.gather(finite_loss_rows)["loss"]
    lost = ~np.isfinite(losses)
    bad = tuple(int(i) for i in np.flatnonzero(lost))
    if lost.all():
        raise MetricError("the loss is not finite at any point")
    vector = observer.once(parameter_vector)
    if not vector.size:
        raise MetricError("the network has no floating-point parameter")
    notes = attention_notes(observer)
    if bad:
        notes = (left_out_note("not finite", lost), *notes)
    return LossSurface(
        observer=observer,
        theta=vector,
        left_out=bad,
        num_points=len(losses) - len(bad),
        loss=float(losses[~lost].mean()),
        notes=notes,
    )


def finite_loss_rows(shard: Shard) -> Arrays:
    """The loss of each point; NaN where the outputs are not finite."""

    def compute(points: slice) -> Arrays:
        with torch.no_grad():
            logits = shard.logits(shard.x[points])
            losses = shard.losses(logits, shard.y[points]).double()
        finite = logits.isfinite().all(dim=1)
        return {"loss": torch.where(finite, losses, torch.nan).cpu().numpy()}

    return shard.rows(compute)


def parameter_vector(shard: Shard) -> np.ndarray:
    """theta (P,) in float64."""
    flat = [p.detach().double().reshape(-1) for p in float_parameters(shard.model).values()]
    return torch.cat(flat).cpu().numpy() if flat else np.zeros(0)


def loss_gradient(shard: Shard, *, shift: np.ndarray, left_out: tuple[int, ...]) -> Arrays:
    """Summed loss and its gradient at theta + shift."""
    shard = shard.without(left_out)
    theta = float_parameters(shard.model)
    moves = _unflatten(shift, theta)
    leaves = {name: (p.detach() + moves[name]).requires_grad_() for name, p in theta.items()}

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
    """Summed Hessian-vector products (K, P): a backward pass a vector through the gradient's graph.

    The graph is kept for the next call at the same theta where it fits into memory.
    """
    shard = shard.without(left_out)
    products = np.zeros(vectors.shape)
    directions: list[dict[str, Tensor]] = []
    for graph in _gradient_graphs(shard, left_out):
        if not directions:
            directions = [_unflatten(vector, graph.leaves) for vector in vectors]
        with torch.enable_grad(), twice_differentiable():
            rows = [_product(graph, direction) for direction in directions]
        products += np.stack(rows)
    return {"products": products}


class GradientGraph(NamedTuple):
    """Theta, and the gradient of a microbatch's summed loss where it depends on theta; by name."""

    leaves: dict[str, Tensor]
    gradients: dict[str, Tensor]


def _gradient_graphs(shard: Shard, left_out: tuple[int, ...]) -> Iterator[GradientGraph]:
    parameters = float_parameters(shard.model)
    held = (*parameters.values(), *shard.model.buffers())
    key = (left_out, tuple((t.data_ptr(), t._version) for t in held))
    kept = shard.kept.get("gradient_graphs")
    if kept is not None and kept[0] == key:
        yield from kept[1]
        return
    shard.kept.pop("gradient_graphs", None)
    leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}

    def build(points: slice) -> GradientGraph:
        with torch.enable_grad(), twice_differentiable():
            loss = _batch_loss(shard, leaves, points)
            found = torch.autograd.grad(
                loss, list(leaves.values()), create_graph=True, allow_unused=True
            )
        pairs = zip(leaves, found, strict=True)
        curved = {n: g for n, g in pairs if g is not None and g.requires_grad}
        return GradientGraph(leaves=leaves, gradients=curved)

    keep = shard.num_points > 0 and _graph_bytes(shard) <= GRADIENT_GRAPH
    graphs = []
    for graph in shard.microbatches(build):
        if keep:
            graphs.append(graph)
        yield graph
    if keep:
        shard.kept["gradient_graphs"] = (key, graphs)


def _graph_bytes(shard: Shard) -> float:
    """About what the gradient's graph holds: a few times every layer's input and output."""
    calls, _ = trace_calls(shard)
    return 4.0 * 8.0 * shard.num_points * sum(c.x.numel() + c.h.numel() for c in calls)


def _product(graph: GradientGraph, direction: Mapping[str, Tensor]) -> np.ndarray:
    if not graph.gradients:
        return np.zeros(sum(p.numel() for p in graph.leaves.values()))
    products = torch.autograd.grad(
        list(graph.gradients.values()),
        list(graph.leaves.values()),
        [direction[name] for name in graph.gradients],
        retain_graph=True,
        allow_unused=True,
    )
    return _flat(products, graph.leaves)


def _batch_loss(shard: Shard, parameters: dict[str, Tensor], points: slice) -> Tensor:
    logits = call_with(shard.model, parameters, shard.x[points])
    return shard.losses(logits, shard.y[points]).double().sum()


def sum_of_losses(shard: Shard, parameters: dict[str, Tensor]) -> float:
    """Summed loss of the shard's points at these parameters."""

    def compute(points: slice) -> float:
        with torch.no_grad():
            return float(_batch_loss(shard, parameters, points))

    return sum(shard.microbatches(compute))


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
