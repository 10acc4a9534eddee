"""What a trial measures, and what names each value: all that it depends on beside its network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flatscale import __version__
from flatscale.metrics.registration import (
    METRICS,
    code_of_metric,
    options_of,
    pass_options,
    resolve_options,
    with_inequalities,
)
from flatscale.study.identity import content_hash
from flatscale.study.plan import TrialSpec
from flatscale.study.plugin_code import code_version
from flatscale.training.losses import LOSSES


def asked_metrics(spec: TrialSpec) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """The metrics that a trial measures, with the inequalities that bound them, and options."""
    names, options = list(spec.measurement.metrics), dict(spec.measurement.options)
    if spec.measurement.check_bounds:
        return with_inequalities(names, options)
    return names, dict[str, Mapping[str, Any]](options)


def value_ids(spec: TrialSpec, points: Mapping[str, str]) -> dict[str, str]:
    """The id of each value of a trial, by metric: of one network, equal ids are equal values.

    A hash of flatscale's version, the code of plugins, every option of the metric and its passes,
    loss, output map and points. What is random follows from the network's own id.

    Args:
        spec: the trial.
        points: content hashes of its point sets, by name.

    Raises:
        ConfigError: the source of a plugin cannot be read, and it declares no version.
    """
    names, given = asked_metrics(spec)
    options, loss = resolve_options(given), spec.measurement.loss or spec.training.loss
    shared = {
        "flatscale": __version__,
        "points": dict(points),
        "loss": [loss, code_version([LOSSES[loss]])],
        "output_map": spec.measurement.output_map,
    }
    found = {}
    for name in names:
        entries = code_of_metric(name)
        own: list[Any] = [options_of(METRICS[name], options)]
        own += [pass_options(entry.name, options) for entry in entries[1:]]
        known = {"name": name, "code": code_version(entries), "options": repr(own)}
        found[name] = content_hash({**shared, **known})
    return found
