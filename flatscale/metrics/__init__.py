"""Metrics: passes over a probe set, what reduces them, and `measure()`, which runs both."""

from flatscale.metrics.catalog import (  # noqa: F401  (importing a module registers its metrics)
    calibration,
    compressibility,
    compression,
    curvature,
    inequalities,
    information,
    outcomes,
    reparametrization,
    sharpness,
    under_attack,
)
from flatscale.metrics.measure import Report, measure
from flatscale.metrics.pass_runner import default_metrics, measure_observers
from flatscale.metrics.passes.curvature import hessian  # noqa: F401
from flatscale.metrics.passes.jacobian import exact, layer_norms  # noqa: F401
from flatscale.metrics.passes.perturbation import random_rises  # noqa: F401
from flatscale.metrics.probe.observers import (
    LocalObserver,
    Observer,
    Shard,
    call_on_shard,
    make_shard,
    merge_points,
    merge_sums,
    points_hash,
)
from flatscale.metrics.probe.restore import held_for_measurement
from flatscale.metrics.registration import (
    MetricInfo,
    check_metric_names,
    measurement_pass,
    metric,
    metric_catalog,
    metric_info,
    with_inequalities,
)
from flatscale.metrics.value_ids import asked_metrics, value_ids

__all__ = [
    "LocalObserver",
    "MetricInfo",
    "Observer",
    "Report",
    "Shard",
    "asked_metrics",
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
    "value_ids",
    "with_inequalities",
]
