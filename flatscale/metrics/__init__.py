"""Metrics: passes over a probe set, what reduces them, and `measure()`, which runs both."""

from flatscale.metrics import (  # noqa: F401  (importing a module registers its metrics)
    ascent,
    bounds,
    compression,
    finite_sensitivity,
    gauss_newton,
    hessian_eigenvalues,
    hessian_trace,
    predictions,
    random_sharpness,
    relative_flatness,
    reparametrization,
    spectral_density,
    weight_precision,
)
from flatscale.metrics.measure import default_metrics, measure_observers
from flatscale.metrics.probe import (
    LocalObserver,
    Observer,
    Shard,
    call_on_shard,
    make_shard,
    merge_points,
    merge_sums,
    points_hash,
)
from flatscale.metrics.registry import (
    MetricInfo,
    check_metric_names,
    measurement_pass,
    metric,
    metric_catalog,
    metric_info,
)
from flatscale.metrics.report import Report, measure
from flatscale.metrics.restore import held_for_measurement

__all__ = [
    "LocalObserver",
    "MetricInfo",
    "Observer",
    "Report",
    "Shard",
    "call_on_shard",
    "check_metric_names",
    "default_metrics",
    "held_for_measurement",
    "make_shard",
    "measure",
    "measure_observers",
    "measurement_pass",
    "merge_points",
    "merge_sums",
    "metric",
    "metric_catalog",
    "metric_info",
    "points_hash",
]
