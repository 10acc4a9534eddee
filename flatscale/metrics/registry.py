"""The register of metrics and of the passes they reduce: a metric is one decorated function."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flatscale.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class PassInfo:
    """An expensive look at the networks: run once, reduced by many metrics.

    Attributes:
        name: the registered name.
        function: (observers, options, seed) -> result of any type.
        options: frozen dataclass of the pass's settings, or None.
    """

    name: str
    function: Callable[..., Any]
    options: type | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricInfo:
    """What is known about a metric without measuring anything.

    Attributes:
        name: the registered name.
        formula: its definition, in the notation of the documentation.
        meaning: one sentence.
        passes: names of the passes it reduces.
        group: compression, sharpness, bound, invariance or outcome.
        unit: the unit of its value; "1" for a pure number.
        value_range: the values it can take.
        invariances: transformations that leave it unmoved.
        source: where it is defined.
        default: whether it is measured when no metrics are named.
        observers: the point sets it needs: probe, train, test.
        options: frozen dataclass of its settings, or None.
        function: (pass results...) -> Measurement; with its options last where it declares any.
    """

    name: str
    formula: str
    meaning: str
    passes: tuple[str, ...]
    group: str
    unit: str
    value_range: str
    invariances: tuple[str, ...]
    source: str
    default: bool
    observers: tuple[str, ...]
    options: type | None
    function: Callable[..., Any] = dataclasses.field(repr=False)


_METRICS: dict[str, MetricInfo] = {}
_PASSES: dict[str, PassInfo] = {}


def measurement_pass(name: str, *, options: type | None = None) -> Callable[[Any], Any]:
    """Register a pass: a function (observers, options, seed) -> result.

    A pass is run once for each distinct options value asked of it: with a metric's own options
    where the metric declares this pass's options type, else with `options={pass name: ...}` or
    defaults.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        _PASSES[name] = PassInfo(name=name, function=function, options=options)
        return function

    return add


def metric(
    name: str,
    *,
    passes: tuple[str, ...],
    formula: str,
    group: str,
    unit: str = "1",
    value_range: str = "[0, inf)",
    invariances: tuple[str, ...] = (),
    source: str = "",
    default: bool = False,
    observers: tuple[str, ...] = ("probe",),
    options: type | None = None,
) -> Callable[[Any], Any]:
    """Register a metric: a function (pass results...) -> Measurement.

    A metric that declares an options dataclass is called with an instance of it as last argument.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        meaning = (function.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        _METRICS[name] = MetricInfo(
            name=name,
            formula=formula,
            meaning=" ".join(meaning.split()),
            passes=passes,
            group=group,
            unit=unit,
            value_range=value_range,
            invariances=invariances,
            source=source,
            default=default,
            observers=observers,
            options=options,
            function=function,
        )
        return function

    return add


def metric_catalog() -> list[MetricInfo]:
    """Every registered metric, in registration order."""
    return list(_METRICS.values())


def metric_info(name: str) -> MetricInfo:
    """One registered metric.

    Raises:
        ConfigError: no metric of that name; the nearest is named.
    """
    if name not in _METRICS:
        raise ConfigError(_unknown("metric", name, _METRICS))
    return _METRICS[name]


def pass_info(name: str) -> PassInfo:
    """One registered pass."""
    if name not in _PASSES:
        raise ConfigError(_unknown("measurement pass", name, _PASSES))
    return _PASSES[name]


def check_metric_names(
    names: Iterable[str] | None, options: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Refuse unknown metrics, unknown options and bad option values, before any model exists.

    Raises:
        ConfigError: says what was found, the nearest valid name, and what is allowed.
    """
    for name in names or ():
        metric_info(name)
    resolve_options(options)


def resolve_options(options: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Options by metric or pass name, as instances of the dataclasses these declare.

    Raises:
        ConfigError: an unknown name or field, or a value its dataclass refuses.
    """
    resolved: dict[str, Any] = {}
    for name, values in (options or {}).items():
        owner: MetricInfo | PassInfo | None = _METRICS.get(name) or _PASSES.get(name)
        if owner is None:
            raise ConfigError(_unknown("metric in options", name, {**_METRICS, **_PASSES}))
        if owner.options is None:
            raise ConfigError(f"options.{name}: {name} takes no options; found {dict(values)}")
        if isinstance(values, owner.options):
            resolved[name] = values
            continue
        if not isinstance(values, Mapping):
            raise ConfigError(
                f"options.{name} must be a mapping of option to value; found {values!r}"
            )
        fields = {field.name for field in dataclasses.fields(owner.options)}
        for key in values:
            if key not in fields:
                raise ConfigError(_unknown(f"option of {name}:", key, fields))
        resolved[name] = _of_declared_types(name, owner.options, values)
    return resolved


def _of_declared_types(name: str, declared: type, values: Mapping[str, Any]) -> Any:
    """The options dataclass with values of its fields' types: a list where a tuple is declared."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(declared).validate_python(dict(values))
    except ValidationError as error:
        lines = [
            f"options.{'.'.join([name, *map(str, problem['loc'])])}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            + ("" if problem["type"] == "value_error" else f"; found {problem['input']!r}")
            for problem in error.errors()
        ]
        raise ConfigError("; ".join(lines)) from error


def _unknown(what: str, name: str, allowed: Iterable[str]) -> str:
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {name!r}{hint} Known: {', '.join(allowed)}"
