"""Reducing a batch's derivatives on the spot to norms and spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from flatscale.errors import MetricError
from flatscale.metrics.passes.jacobian.derivatives import Derivatives, ForwardPass
from flatscale.metrics.passes.jacobian.first_layer import FirstLayer
from flatscale.metrics.passes.jacobian.parameter_gradients import GradientNormSums
from flatscale.metrics.probe.layer_calls import LayerCall


class JacobianSums:
    """The exact pass of one batch, reduced as the outputs' derivatives come.

    Args:
        ran: the forward pass.
    """

    def __init__(self, ran: ForwardPass) -> None:
        self._x = ran.x.detach()
        self._batch, self._num_outputs = ran.outputs.shape
        self.calls = ran.calls_by_point()
        self._linear = [call for call in self.calls if call.is_linear]
        self._first = FirstLayer(self.calls, self._x)
        self.reads_input = self._first.reads_input
        self._norms: list[GradientNormSums | None] = [None] * len(self.calls)
        self._delta2 = [self._zeros(torch.float64) for _ in self._linear]
        self._input_rows: Tensor | None = None
        self._layer_rows: list[Tensor | None] = [None] * len(self._linear)
        self._done = 0

    def add(self, found: Derivatives) -> None:
        """Add the derivatives of the next outputs."""
        self._input_rows = self._stored(self._input_rows, found.by_input)
        linear = 0
        for place, (call, delta) in enumerate(zip(self.calls, found.deltas, strict=True)):
            if delta is not None:
                self._add_call(place, call, delta)
            if call.is_linear:
                if delta is not None:
                    self._delta2[linear] += norm2(delta, 2).sum(dim=0)
                rows = found.by_layer_input[linear]
                if rows is not None:
                    self._layer_rows[linear] = self._stored(self._layer_rows[linear], rows)
                linear += 1
        self._done += len(found.by_input)

    def gradient_norms(self) -> list[dict[str, Tensor]]:
        """sum_k ||grad_p f_k(x_i)||^2 of every call's parameters."""
        return [{} if norms is None else norms.norms() for norms in self._norms]

    def rows(self) -> dict[str, Tensor]:
        """All reductions, one row per point."""
        if self._input_rows is None:
            raise MetricError("the network has no outputs")
        alone = self.reads_input.all() and _same(self._layer_rows[0], self._input_rows)
        shape = (self._batch, self._num_outputs)
        spectra = [
            torch.zeros(shape, device=self._x.device) if rows is None else singular_values(rows)
            for rows in self._layer_rows
        ]
        inputs = self._x.flatten(1)
        along = torch.einsum("bkd,bd->bk", self._input_rows, inputs).double()
        found = [
            None if norms is None else norms.weight_norm()
            for call, norms in zip(self.calls, self._norms, strict=True)
            if call.is_linear
        ]
        weights = [self._zeros(torch.float64) if w is None else w for w in found]
        return {
            "singular_values": spectra[0] if alone else singular_values(self._input_rows),
            "layer_singular_values": columns(spectra, *shape),
            "layer_input_norm2": columns([norm2(c.x, 1) for c in self._linear], self._batch),
            "layer_delta_norm2": columns(self._delta2, self._batch),
            "layer_weight_gradient2": columns(weights, self._batch),
            "input_norm2": norm2(self._x, 1),
            "along_input": along.square().sum(dim=1) / inputs.shape[1],
            "first_layer": self._first.columns(self.calls, self._norms),
        }

    def _add_call(self, place: int, call: LayerCall, delta: Tensor) -> None:
        norms = self._norms[place]
        if norms is None:
            entrywise = self._first.shares_weights(call)
            norms = GradientNormSums(call, self._num_outputs, entrywise=entrywise)
            self._norms[place] = norms
        norms.add(delta)
        self._first.add(call, delta)

    def _stored(self, store: Tensor | None, rows: Tensor) -> Tensor:
        rows = rows.flatten(2).transpose(0, 1)
        if store is None:
            shape = (self._batch, self._num_outputs, rows.shape[2])
            store = torch.zeros(shape, dtype=rows.dtype, device=rows.device)
        store[:, self._done : self._done + rows.shape[1]] = rows
        return store

    def _zeros(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(self._batch, dtype=dtype, device=self._x.device)


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


def _same(first: Tensor | None, second: Tensor) -> bool:
    return first is not None and torch.equal(first, second)
