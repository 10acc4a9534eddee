"""Running the passes that metrics need, each once, then the metrics; a failure spoils one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flatscale.errors import FlatscaleError, LostWorkerError
from flatscale.measurement import Measurement
from flatscale.metrics.probe.observers import Observer
from flatscale.metrics.probe.second_look import network_notes
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
from flatscale.progress_bar import Watch
from flatscale.study.seeds import derive_seed

logger = logging.getLogger(__name__)


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
    watch: Watch | None = None,
) -> dict[str, Measurement]:
    """Measure a model held against point sets.

    Every pass that the metrics need is run once; a metric only reduces what its passes return. A
    metric or pass that fails becomes a failed measurement with its reason.

    Args:
        observers: the model held against the sets `probe`, `train` and `test`, or some of them.
        metrics: names; None for the default ones that the given sets allow.
        options: options by metric or pass name.
        seed: of everything random.
        watch: told the pass that begins, and the number of metrics measured before it.

    Returns:
        One measurement per name, in the order asked.

    Raises:
        ConfigError: an unknown metric or option.
        LostWorkerError: an observer's processes are gone.
    """
    names = list(dict.fromkeys(metrics)) if metrics is not None else default_metrics(observers)
    check_metric_names(names, options)
    run = _Run(observers, resolve_options(options), seed, watch or (lambda *_: None))
    measured = {name: run.measure(metric_info(name)) for name in names}
    observer = next(iter(observers.values()), None)
    notes = run.attempt("look at the network", observer.once, network_notes) if observer else None
    notes = list(notes) if isinstance(notes, tuple) else []
    return {name: with_notes(found, notes) for name, found in measured.items()}


class _Run:
    """One model's measurements: every pass runs once for each value of its options.

    Args:
        observers: the model held against point sets.
        options: as `resolve_options` returns them.
        seed: of everything random.
        watch: told what is computed next.
    """

    def __init__(
        self,
        observers: Mapping[str, Observer],
        options: Mapping[str, Any],
        seed: int,
        watch: Watch,
    ) -> None:
        self._observers, self._options, self._seed = observers, options, seed
        self._watch, self._num_measured = watch, 0
        self._results: dict[tuple[str, str], Any] = {}
        self._told: set[str] = set()

    def measure(self, info: MetricInfo) -> Measurement:
        """One metric, its passes first."""
        measured = self._measured(info)
        self._num_measured += 1
        return measured

    def _measured(self, info: MetricInfo) -> Measurement:
        own, looks = options_of(info, self._options)
        inputs = []
        for name, values in looks.items():
            found = self._result(name, values)
            if isinstance(found, Exception):
                return Measurement.failed(info.name, _reason(found))
            inputs.append(found)
        measured = self.attempt(f"metric {info.name}", info.function, *inputs, **own)
        if isinstance(measured, Exception):
            return Measurement.failed(info.name, _reason(measured))
        return with_notes(measured, [n for result in inputs for n in getattr(result, "notes", ())])

    def _result(self, name: str, values: Mapping[str, Any]) -> Any:
        """The pass's result, its exception where it raised one: so that nothing is run twice.

        The passes it needs run first; where one of them failed, its exception is the result.
        """
        key = (name, repr(sorted(values.items())))
        if key not in self._results:
            needs = PASSES[name].needs
            needed = [self._result(other, pass_options(other, self._options)) for other in needs]
            failed = next((found for found in needed if isinstance(found, Exception)), None)
            seed = derive_seed(self._seed, "pass", name)
            run = PASSES[name].function
            self._watch(name, self._num_measured)
            self._results[key] = failed or self.attempt(
                f"pass {name}", run, self._observers, seed, *needed, **values
            )
        return self._results[key]

    def attempt(self, what: str, function: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """What the function returns, or its exception, logged; a lost worker is raised.

        The traceback of an error that many passes meet is logged once.
        """
        try:
            return function(*inputs, **options)
        except LostWorkerError:
            raise
        except Exception as error:
            if isinstance(error, FlatscaleError):
                logger.info("%s: %s", what, error)
            elif _reason(error) in self._told:
                logger.error("%s failed: %s", what, _reason(error))
            else:
                logger.error("%s failed", what, exc_info=error)
            self._told.add(_reason(error))
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
