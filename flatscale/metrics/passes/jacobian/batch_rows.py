"""One batch of points in the Jacobian pass: derivatives reduced to rows, one a point."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from flatscale.errors import MetricError
from flatscale.metrics.passes.jacobian.derivatives import ForwardPass, differentiate, run_forward
from flatscale.metrics.passes.jacobian.gradient_routes import (
    GradientRoutes,
    layer_gradient_norms,
    network_gradient_norms,
)
from flatscale.metrics.passes.jacobian.parameter_gradients import PLAIN_LAYERS, GradientNormSums
from flatscale.metrics.probe.byte_limits import CACHED_DERIVATIVES
from flatscale.metrics.probe.layer_calls import LayerCall
from flatscale.metrics.probe.observers import Arrays, Shard

FIRST_LAYER = ("m_1 unrolled", "||W o grad||^2 unrolled", "kernel rows", "||W o grad||^2 shared")


def reads_input(first: LayerCall | None, x: Tensor) -> np.ndarray:
    """Of which points (B,) the first layer reads the network's input itself."""
    if first is None or first.x.shape != x.shape:
        return np.zeros(len(x), dtype=bool)
    same = first.x.detach().nan_to_num() == x.detach().nan_to_num()
    return same.flatten(1).all(dim=1).cpu().numpy()


class FirstLayer:
    """||W_1 o grad_{W_1} f(x_i)||_F^2, unrolled and with weights shared, added up over outputs.

    Args:
        calls: every layer's call of one batch, in forward order.
        x: the batch (B, ...).

    Attributes:
        reads_input: at which points (B,) that layer reads the network's input.
    """

    def __init__(self, calls: Sequence[LayerCall], x: Tensor) -> None:
        first = next((call for call in calls if call.is_linear), None)
        self.reads_input = reads_input(first, x)
        self._batch = len(x)
        self._call: LayerCall | None = None
        self._module: nn.Linear | nn.Conv1d | nn.Conv2d | None = None
        if first is not None and not first.folded and isinstance(first.module, PLAIN_LAYERS):
            self._call, self._module = first, first.module
        self._squares: Tensor | None = None

    def shares_weights(self, call: LayerCall) -> bool:
        """Whether this is the first layer, and its weights serve several positions."""
        if call is not self._call or self._module is None:
            return False
        return call.h[0].numel() > self._module.weight.shape[0]

    def add(self, call: LayerCall, delta: Tensor) -> None:
        """Add df_k/dh (K, B, ...), if the call is the first layer's."""
        if call is not self._call:
            return
        if self._squares is None:
            self._squares = torch.zeros_like(delta[0])
        for row in delta:
            self._squares.addcmul_(row, row)

    def columns(self, sums: GradientNormSums | None) -> Tensor:
        """The `FIRST_LAYER` columns (B, 4) from the layer's sums; zeros for no plain layer."""
        found = torch.zeros(self._batch, len(FIRST_LAYER), dtype=torch.float64)
        module = self._module
        if self._call is None or module is None or self._squares is None:
            return found
        squared = {"weight": module.weight.detach().square()}
        if module.bias is not None:
            squared["bias"] = torch.zeros_like(module.bias)
        image = torch.func.functional_call(module, squared, (self._call.x.detach().square(),))
        shared = None if sums is None else sums.weight_squares()
        found[:, 0] = self._squares[0].numel()
        found[:, 1] = (self._squares * image).flatten(1).sum(dim=1).double().cpu()
        found[:, 2] = module.weight.shape[0]
        found[:, 3] = found[:, 1]
        if shared is not None:
            found[:, 3] = (shared * squared["weight"]).flatten(1).sum(dim=1).double().cpu()
        return found


class GradientSums:
    """Norms of gradients by layer and parameter, summed as the derivatives of outputs come.

    Args:
        ran: the forward pass.
        num_mixes: of how many outputs, or combinations of them, derivatives will come.
    """

    def __init__(self, ran: ForwardPass, num_mixes: int) -> None:
        self._x, self._num_mixes = ran.x.detach(), num_mixes
        self._calls = ran.calls_by_point()
        self._first = FirstLayer(self._calls, self._x)
        self.reads_input = self._first.reads_input
        self._norms: dict[int, GradientNormSums] = {}
        none = torch.zeros(len(self._x), dtype=torch.float64, device=self._x.device)
        linear = [place for place, call in enumerate(self._calls) if call.is_linear]
        self._delta2 = {place: none.clone() for place in linear}

    def add(self, deltas: Sequence[Tensor | None]) -> None:
        """Add df_k/dh (K, B, ...) of every call."""
        for place, (call, delta) in enumerate(zip(self._calls, deltas, strict=True)):
            if delta is None:
                continue
            if place not in self._norms:
                entrywise = self._first.shares_weights(call)
                self._norms[place] = GradientNormSums(call, self._num_mixes, entrywise=entrywise)
            self._norms[place].add(delta)
            self._first.add(call, delta)
            if call.is_linear:
                self._delta2[place] += norm2(delta, 2).sum(dim=0)

    def rows(
        self, shard: Shard, routes: GradientRoutes, mixes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All sums, one row per point; mixes (K, B, N) where not every output was added."""
        # parameters of plain layers from x and delta; the few others through the whole network
        places, batch = range(len(self._calls)), len(self._x)
        norms = [self._norms[p].norms() if p in self._norms else {} for p in places]
        by_parameter, _ = layer_gradient_norms(shard.model, self._calls, norms)
        by_parameter |= network_gradient_norms(shard, self._x, routes.networked, mixes)
        found = {p: sums.weight_norm() for p, sums in self._norms.items()}
        none = torch.zeros(batch, dtype=torch.float64)
        weights = [none if (w := found.get(place)) is None else w for place in self._delta2]
        inputs = [norm2(self._calls[place].x.detach(), 1) for place in self._delta2]
        return {
            "parameter_gradient2": columns([by_parameter[name] for name in routes.names], batch),
            "layer_input_norm2": columns(inputs, batch),
            "layer_delta_norm2": columns(list(self._delta2.values()), batch),
            "layer_weight_gradient2": columns(weights, batch),
            "first_layer": self._first.columns(self._norms.get(next(iter(self._delta2), -1))),
        }


def exact_rows(shard: Shard, x: Tensor, routes: GradientRoutes) -> Arrays:
    """Every array of the exact pass for one batch of points."""
    ran = run_forward(shard, x)
    shape = ran.outputs.shape
    sums = GradientSums(ran, shape[1])
    # rows of J_i, then of J_i^l by layer; as many outputs at a time as stay in cache
    held: dict[int, Tensor] = {}
    done = 0
    for mixes in _output_chunks(ran):
        derivatives = differentiate(ran, mixes)
        sums.add(derivatives.deltas)
        found = [derivatives.by_input, *derivatives.by_layer_input]
        for place, part in enumerate(found):
            if part is not None:
                part = part.flatten(2).transpose(0, 1)
                if place not in held:
                    held[place] = part.new_zeros(*shape, part.shape[2])
                held[place][:, done : done + len(mixes)] = part
        done += len(mixes)
    if not held:
        raise MetricError("the network has no outputs")
    spectra = [
        singular_values(held[place]) if place in held else torch.zeros(shape, device=x.device)
        for place in range(1, len(found))
    ]
    alone = sums.reads_input.all() and 1 in held and torch.equal(held[1], held[0])
    inputs = x.detach().flatten(1)
    along = torch.einsum("bkd,bd->bk", held[0], inputs).double()
    rows = {
        "singular_values": spectra[0] if alone else singular_values(held[0]),
        "layer_singular_values": columns(spectra, *shape),
        "input_norm2": norm2(inputs, 1),
        "along_input": along.square().sum(dim=1) / inputs.shape[1],
        **sums.rows(shard, routes),
    }
    return _finite_rows(rows, ran.outputs) | {"first_layer_reads_input": sums.reads_input}


def mixed_rows(shard: Shard, x: Tensor, routes: GradientRoutes, mixes: Tensor) -> Arrays:
    """For combinations (K, B, N) of the outputs: their gradients' products and norms."""
    ran = run_forward(shard, x)
    found = differentiate(ran, mixes, layer_inputs=False)
    sums = GradientSums(ran, len(mixes))
    sums.add(found.deltas)
    gradients = found.by_input.flatten(2).transpose(0, 1).double()
    rows = {"mixed_gram": gradients @ gradients.mT, **sums.rows(shard, routes, mixes)}
    return _finite_rows(rows, ran.outputs) | {"first_layer_reads_input": sums.reads_input}


def _output_chunks(ran: ForwardPass) -> Iterator[Tensor]:
    """Unit mixes of the outputs; on a CPU so few at once that their derivatives stay in cache."""
    batch, num_outputs = ran.outputs.shape
    chunk = num_outputs
    if ran.x.device.type == "cpu":
        floats = sum(call.h.numel() + call.x.numel() for call in ran.calls)
        chunk = max(1, int(CACHED_DERIVATIVES / (4 * max(floats, 1))))
    units = torch.eye(num_outputs, dtype=ran.outputs.dtype, device=ran.x.device)
    for rows in units.split(chunk):
        yield rows.unsqueeze(1).expand(len(rows), batch, num_outputs)


def _finite_rows(rows: dict[str, Tensor], outputs: Tensor) -> Arrays:
    """The rows as float64 arrays, all NaN at points where anything is not finite; and which are."""
    arrays = {key: value.detach().double().cpu().numpy() for key, value in rows.items()}
    finite = outputs.detach().isfinite().all(dim=1).cpu().numpy()
    for value in arrays.values():
        finite &= np.isfinite(value).reshape(len(finite), -1).all(axis=1)
    for value in arrays.values():
        value[~finite] = np.nan
    return arrays | {"finite": finite}


def singular_values(rows: Tensor) -> Tensor:
    """Singular values, descending, of matrices (B, N, d): (B, N), from float64 Gram matrices.

    Rows of a point that is not finite are NaN and leave the others alone.
    """
    rows = rows.double()
    gram = rows @ rows.mT
    finite = gram.isfinite().all(dim=(1, 2))
    gram = torch.where(finite[:, None, None], gram, torch.zeros_like(gram))
    values = torch.linalg.eigvalsh(gram).flip(1).clamp(min=0.0).sqrt()
    return torch.where(finite[:, None], values, torch.full_like(values, torch.nan))


def norm2(values: Tensor, keep: int) -> Tensor:
    return torch.linalg.vector_norm(values.flatten(keep), dim=keep).double().square()


def columns(columns: list[Tensor], *shape: int) -> Tensor:
    """Columns (B, ...) side by side in float64: (B, L, ...)."""
    if not columns:
        return torch.zeros(shape[0], 0, *shape[1:])
    return torch.stack([column.double().cpu() for column in columns], dim=1)
