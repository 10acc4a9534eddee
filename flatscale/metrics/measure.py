"""measure(): a model and a point set in, a report of measurements out."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from flatscale.errors import ConfigError, DataError, MetricError
from flatscale.extras import needs
from flatscale.measurement import Measurement
from flatscale.metrics.pass_runner import default_metrics, measure_observers
from flatscale.metrics.probe.observers import LocalObserver, call_on_shard
from flatscale.metrics.probe.second_look import refuse_misfit
from flatscale.metrics.registration import check_metric_names
from flatscale.progress_bar import progress_bar
from flatscale.training.losses import PointLoss

PointSet = tuple[Any, Any] | Iterable[Any] | Dataset[Any]
"""(x, y) tensors or arrays, a Dataset, or an iterable of such batches (a DataLoader)."""
_LOADED_AT_ONCE = 256

_COLUMNS = {
    "value": pl.Float64,
    "std_error": pl.Float64,
    "converged": pl.Boolean,
    "num_evaluations": pl.Int64,
    "num_points": pl.Int64,
    "reason": pl.String,
}


class Report(Mapping[str, Measurement]):
    """Measurements by metric name, in the order asked.

    Attributes:
        probe_hash: content hash of the point set measured on.
    """

    def __init__(self, measurements: Mapping[str, Measurement], probe_hash: str) -> None:
        self._measurements = dict(measurements)
        self.probe_hash = probe_hash

    def __getitem__(self, name: str) -> Measurement:
        if name not in self._measurements:
            raise KeyError(f"{name!r} was not measured here; measured: {', '.join(self)}")
        return self._measurements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._measurements)

    def __len__(self) -> int:
        return len(self._measurements)

    def to_polars(self) -> pl.DataFrame:
        """One row per metric, with everything but layers and extras."""
        rows = [
            (name, *(getattr(measured, column) for column in _COLUMNS), self.probe_hash)
            for name, measured in self.items()
        ]
        schema = {"metric": pl.String, **_COLUMNS, "probe_hash": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def to_pandas(self) -> Any:
        """`to_polars` as a pandas frame."""
        needs("pandas", "pyarrow")
        return self.to_polars().to_pandas()

    def _repr_html_(self) -> str:
        """In a notebook: the table, one row per metric."""
        return self.to_polars().drop("probe_hash")._repr_html_()

    def to_row(self) -> pl.DataFrame:
        """One row: the value and the standard error (`name_std_error`) of every metric."""
        row: dict[str, float | str | None] = {"probe_hash": self.probe_hash}
        for name, measured in self.items():
            row[name] = measured.value
            row[f"{name}_std_error"] = measured.std_error
        schema = {k: pl.String if k == "probe_hash" else pl.Float64 for k in row}
        return pl.DataFrame([row], schema=schema)

    def __str__(self) -> str:
        table = Table("metric", "value", "std error", "converged", "note")
        # What failed for one reason is one row.
        failed = {m.reason: [k for k in self if self[k].reason == m.reason] for m in self.values()}
        for name, measured in self.items():
            same = failed[measured.reason] if measured.value is None else [name]
            if name != same[0]:
                continue
            table.add_row(
                ", ".join(same),
                "-" if measured.value is None else f"{measured.value:.6g}",
                "-" if measured.std_error is None else f"{measured.std_error:.2g}",
                "yes" if measured.converged else "no",
                escape(measured.reason or ""),
            )
        sink = io.StringIO()
        Console(file=sink, width=110).print(table)
        return sink.getvalue().rstrip()

    def __repr__(self) -> str:
        return str(self)


def measure(
    model: nn.Module,
    data: PointSet,
    metrics: Iterable[str] | None = None,
    *,
    loss: str | PointLoss = "half_squared_error",
    output_map: str = "identity",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    train: PointSet | None = None,
    test: PointSet | None = None,
    shifted: PointSet | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> Report:
    """Measure a network on a probe set; the network comes back exactly as it was.

    A network that is no function of the point alone (BatchNorm without running statistics, dropout
    that stays on) is found out by a second look at some points; every measurement of it says so. A
    compiled module is measured as the module that was compiled.

    Args:
        model: any module mapping inputs (B, ...) to outputs (B, N).
        data: the probe set: (x, y), a Dataset, or a DataLoader of such batches; (x, None) for the
            metrics that need no targets.
        metrics: names (`metric_catalog()` lists them); None for the default set.
        loss: half_squared_error, squared_error, cross_entropy, or (outputs, targets) -> (B,).
        output_map: identity, sigmoid or softmax, applied before f is differentiated.
        options: options by metric, such as {"adaptive_sharpness": {"rho": 0.1}}.
        seed: of everything random.
        train: training set, for train_* metrics and the gap.
        test: test set, for test_* metrics and the gap.
        shifted: a second test set with the same classes, for shifted_* metrics.
        batch_size: most points computed at once; by default each pass chooses.
        device: where to compute, on a copy of the model; the model's device by default.
        progress: show a bar on standard error; by default where that is a terminal or a notebook.

    Raises:
        ConfigError: an unknown metric, option, loss or output map.
        DataError: data that is not (x, y).
        MetricError: the model is no module or does not take such inputs, or inputs and targets
            differ in number.
    """
    names = metrics if metrics is None or isinstance(metrics, str) else list(metrics)
    _check_arguments(data, names, options, batch_size)
    check_metric_names(names, options)
    observers = {}
    with _random_state_kept():
        held = _measurable(model, device)
        for name, points in (
            ("probe", data),
            ("train", train),
            ("test", test),
            ("shifted", shifted),
        ):
            if points is not None:
                x, y = _points(points, name)
                observer = LocalObserver(
                    held,
                    x,
                    y,
                    loss=loss if y.numel() else partial(_no_targets, name),
                    output_map=output_map,
                    microbatch=batch_size,
                )
                call_on_shard(observer.shard, refuse_misfit, name=name)
                observers[name] = observer
        wanted = names if names is not None else default_metrics(observers)
        with progress_bar(progress, len(wanted)) as watch:
            measured = measure_observers(observers, wanted, options=options, seed=seed, watch=watch)
    return Report(measured, observers["probe"].content_hash)


def _check_arguments(
    data: PointSet, names: Sequence[str] | None, options: Any, batch_size: int | None
) -> None:
    """Refuse what no further function would name by the argument's own name."""
    if data is None:
        raise DataError(f"{_a_set('probe')}; found None")
    if names is not None and not names:
        raise ConfigError("metrics names none; leave it out for the default set")
    if not isinstance(options, Mapping | None):
        raise ConfigError(
            "options must map a metric to its options, such as {'adaptive_sharpness': {'rho': "
            f"0.1}}}}; found {options!r}"
        )
    if batch_size is not None and not (isinstance(batch_size, int) and batch_size >= 1):
        raise ConfigError(
            f"batch_size must be a number of points, at least 1, or None; found {batch_size!r}"
        )


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Inside, torch's and numpy's global generators may be drawn from (a loader does)."""
    state = np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _measurable(model: nn.Module, device: torch.device | str | None) -> nn.Module:
    """The model itself where it can be measured as it is, else a copy that can, at that place."""
    if not isinstance(model, nn.Module):
        return model
    tensors = [*model.parameters(), *model.buffers()]
    place = None if device is None else _place(device)
    moves = place is not None and not all(_is_at(tensor.device, place) for tensor in tensors)
    if not moves and not any(tensor.is_inference() for tensor in tensors):
        return model
    # Tensors made in inference mode refuse derivatives; their copies do not.
    with torch.inference_mode(False):
        copied = copy.deepcopy(model)
        return copied.to(place) if moves else copied


def _place(device: torch.device | str) -> torch.device:
    """A device that there is.

    Raises:
        ConfigError: no such device here.
    """
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        here = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"device: {device!r} cannot be used ({str(error).splitlines()[0][:120]}); this machine "
            f"has {', '.join(here)}"
        ) from error
    return place


def _is_at(found: torch.device, wanted: torch.device) -> bool:
    """Whether a tensor's device is the wanted one; a kind without a number is any of that kind."""
    return found.type == wanted.type and wanted.index in (None, found.index)


def _points(points: PointSet, name: str) -> tuple[Tensor, Tensor]:
    """Inputs (n, ...) and targets; targets (n, 0) where there are none."""
    if isinstance(points, tuple | list) and len(points) == 2 and hasattr(points[0], "shape"):
        x = torch.as_tensor(points[0])
        if points[1] is None:
            return x, torch.empty(len(x), 0)
        y = torch.as_tensor(points[1])
        if y.ndim == 0 or len(y) != len(x):
            raise DataError(
                f"the {name} set must have one target for each input; found {len(x)} inputs and "
                f"targets of shape {tuple(y.shape)}"
            )
        return x, y
    loader = DataLoader(points, _LOADED_AT_ONCE) if isinstance(points, Dataset) else points
    xs, ys = [], []
    try:
        for batch in loader:
            if isinstance(batch, Mapping):
                raise DataError(
                    f"the {name} set's batches are mappings with the keys "
                    f"{', '.join(map(repr, batch))}, and which are inputs and targets cannot be "
                    'known; give pairs, such as ((b["image"], b["label"]) for b in loader)'
                )
            x, y = (torch.as_tensor(part) for part in batch)
            if y.ndim == 0:
                raise DataError(
                    f"the {name} set gives single points, not batches: wrap it in "
                    "torch.utils.data.DataLoader(..., batch_size=256)"
                )
            xs.append(x)
            ys.append(y)
        if not xs:
            raise DataError(f"the {name} set has no batches")
        return torch.cat(xs), torch.cat(ys)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{_a_set(name)}; found {type(points).__name__} ({str(error).splitlines()[0]})"
        ) from error


def _a_set(name: str) -> str:
    return f"the {name} set must be (x, y), a Dataset, or an iterable of (x, y) batches"


def _no_targets(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of points without targets.

    Raises:
        MetricError: always.
    """
    raise MetricError(f"the {name} set has no targets: give measure() (x, y) in place of (x, None)")
