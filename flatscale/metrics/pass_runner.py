"""Running the passes that metrics need, each once, then the metrics; a failure spoils one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flatscale.errors import FlatscaleError, LostWorkerError
from flatscale.measurement import Measurement
from flatscale.metrics.probe.observers import Observer, Shard
from flatscale.metrics.registration import (
    PASSES,
    MetricInfo,
    check_metric_names,
    metric_catalog,
    metric_info,
    options_of,
    pass_options,
    resolve_options,
)
from flatscale.study.seeds import derive_seed

logger = logging.getLogger(__name__)

_Key = tuple[str, str]
_WIDENED = "half-precision weights were measured in float32 arithmetic"


def default_metrics(given: Iterable[str]) -> list[str]:
    """Names of the metrics measured when none are named, for the point sets that are given."""
    sets = set(given)
    return [m.name for m in metric_catalog() if m.default and sets.issuperset(m.observers)]


def measure_observers(
    observers: Mapping[str, Observer],
    metrics: Iterable[str] | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> dict[str, Measurement]:
    """Measure a model held against point sets.

    Every pass that the metrics need is run once; a metric only reduces what its passes return. A
    metric or pass that fails becomes a failed measurement with its reason.

    Args:
        observers: the model held against the sets `probe`, `train` and `test`, or some of them.
        metrics: names; None for the default ones that the given sets allow.
        options: options by metric or pass name.
        seed: of everything random.

    Returns:
        One measurement per name, in the order asked.

    Raises:
        ConfigError: an unknown metric or option.
        LostWorkerError: an observer's processes are gone.
    """
    names = list(dict.fromkeys(metrics)) if metrics is not None else default_metrics(observers)
    check_metric_names(names, options)
    resolved = resolve_options(options)
    results: dict[_Key, Any] = {}
    measured = {
        name: _measure_one(metric_info(name), observers, resolved, seed, results) for name in names
    }
    notes = _precision_notes(observers)
    return {name: with_notes(found, notes) for name, found in measured.items()}


def was_widened(shard: Shard) -> bool:
    """Whether the model's weights are of half precision, and measured in float32."""
    return shard.widened


def _precision_notes(observers: Mapping[str, Observer]) -> list[str]:
    for observer in observers.values():
        try:
            widened = observer.once(was_widened)
        except LostWorkerError:
            raise
        except Exception as error:
            _log_failure("precision of the weights", error)
            return []
        return [_WIDENED] if widened else []
    return []


def _measure_one(
    info: MetricInfo,
    observers: Mapping[str, Observer],
    options: Mapping[str, Any],
    seed: int,
    results: dict[_Key, Any],
) -> Measurement:
    own, looks = options_of(info, options)
    inputs = []
    for name, values in looks.items():
        found = _pass_result(name, values, observers, options, seed, results)
        if isinstance(found, Exception):
            return Measurement.failed(info.name, _reason(found))
        inputs.append(found)
    try:
        measured = info.function(*inputs, **own)
    except LostWorkerError:
        raise
    except Exception as error:
        _log_failure(f"metric {info.name}", error)
        return Measurement.failed(info.name, _reason(error))
    notes = [note for result in inputs for note in getattr(result, "notes", ())]
    return with_notes(measured, notes)


def _pass_result(
    name: str,
    values: Mapping[str, Any],
    observers: Mapping[str, Observer],
    options: Mapping[str, Any],
    seed: int,
    results: dict[_Key, Any],
) -> Any:
    """The pass's result, its exception where it raised one: so that nothing is run twice.

    The passes that it needs run first; where one of them failed, its exception is the result.
    """
    key = (name, repr(sorted(values.items())))
    if key in results:
        return results[key]
    needed = [
        _pass_result(other, pass_options(other, options), observers, options, seed, results)
        for other in PASSES[name].needs
    ]
    failed = next((found for found in needed if isinstance(found, Exception)), None)
    results[key] = failed or _run_pass(name, values, observers, needed, seed)
    return results[key]


def _run_pass(
    name: str,
    values: Mapping[str, Any],
    observers: Mapping[str, Observer],
    needed: Sequence[Any],
    seed: int,
) -> Any:
    try:
        own_seed = derive_seed(seed, "pass", name)
        return PASSES[name].function(observers, own_seed, *needed, **values)
    except LostWorkerError:
        raise
    except Exception as error:
        _log_failure(f"pass {name}", error)
        return error


def with_notes(measured: Measurement, notes: list[str]) -> Measurement:
    """The measurement with notes joined to its reason."""
    if not notes:
        return measured
    reason = "; ".join(dict.fromkeys([*([measured.reason] if measured.reason else []), *notes]))
    return dataclasses.replace(measured, reason=reason)


def _reason(error: Exception) -> str:
    if isinstance(error, FlatscaleError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _log_failure(what: str, error: Exception) -> None:
    if isinstance(error, FlatscaleError):
        logger.info("%s: %s", what, error)
    else:
        logger.error("%s failed", what, exc_info=error)
