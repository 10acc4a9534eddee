"""Metrics and the passes they reduce, by name: each is one decorated function.

The options of a pass are the keyword-only arguments of its function, and those of a metric its own
keyword-only arguments together with its passes'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from flatscale.errors import ConfigError
from flatscale.study.registry import Registered, Registry, checked_options, option_parameters
from flatscale.study.schema import DEFAULT_METRICS

RESCALING = "layer rescaling of ReLU networks"
"""The transformation of Dinh et al. 2017, as metrics name it that it leaves unmoved."""
Options = Mapping[str, Mapping[str, Any]]
"""Values by option, by the name of a metric or a pass."""
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class PassInfo(Registered):
    """An expensive look at the networks: run once, reduced by many metrics.

    Attributes:
        function: (observers, seed, results of what it needs..., *, options...) -> any result.
        needs: names of the passes whose results it takes.
        check: called with the values of all options; raises ValueError where they do not fit
            together.
    """

    needs: tuple[str, ...] = ()
    check: Callable[..., None] | None = None


@dataclass(frozen=True, kw_only=True)
class MetricInfo(Registered):
    """What is known about a metric without measuring anything.

    Attributes:
        function: (pass results..., *, options...) -> Measurement.
        formula: its definition, in the notation of the documentation.
        passes: names of the passes it reduces.
        group: compression, sharpness, bound, invariance, outcome, robustness, calibration,
            compressibility or information.
        unit: the unit of its value; "1" for a pure number.
        value_range: the values it can take.
        invariances: transformations that leave it unmoved.
        source: where it is defined.
        observers: the point sets it needs: probe, train, test, shifted.
        bounds: the metric that is at most this one, where this is the right side of an inequality.
        variant_of: the metric that measures the same with another option (norm, radius, layers,
            normalization); a study's specification curve puts one for the other.
    """

    formula: str
    passes: tuple[str, ...]
    group: str
    unit: str = "1"
    value_range: str = "[0, inf)"
    invariances: tuple[str, ...] = ()
    source: str = ""
    observers: tuple[str, ...] = ("probe",)
    bounds: str | None = None
    variant_of: str | None = None

    @property
    def default(self) -> bool:
        """Whether a study that names no metrics measures it: of the default set or bounding it."""
        return self.name in DEFAULT_METRICS or self.bounds in DEFAULT_METRICS


METRICS: Registry[MetricInfo] = Registry("metric")
PASSES: Registry[PassInfo] = Registry("measurement pass")


def measurement_pass(
    name: str,
    *,
    needs: tuple[str, ...] = (),
    check: Callable[..., None] | None = None,
    version: str | None = None,
) -> Callable[[Function], Function]:
    """Register a pass: a function (observers, seed, results..., *, options...) -> result.

    A pass is run once for each distinct value of its options that is asked of it.

    Args:
        name: what metrics and a study file's options call it.
        needs: names of the passes whose results it takes after the seed.
        check: takes all options by keyword; raises ValueError where they do not fit together.
        version: as in `Registered`.
    """

    def add(function: Function) -> Function:
        _defaults(function)
        info = PassInfo(name=name, function=function, needs=needs, check=check, version=version)
        PASSES.add(info)
        return function

    return add


def metric(
    name: str, *, passes: tuple[str, ...], formula: str, group: str, **facts: Any
) -> Callable[[Function], Function]:
    """Register a metric: a function (pass results..., *, options...) -> Measurement.

    An option that a pass of its has too reaches both, with the metric's default. The first
    paragraph of the function's docstring is what the metric means.

    Args:
        name: what a study file calls it.
        passes, formula, group: as in `MetricInfo`.
        facts: the other fields of `MetricInfo`, where they differ from its defaults.
    """

    def add(function: Function) -> Function:
        _defaults(function)
        known = {"formula": formula, "passes": passes, "group": group, **facts}
        METRICS.add(MetricInfo(name=name, function=function, **known))
        return function

    return add


def code_of_metric(name: str) -> list[Registered]:
    """A metric with the passes it reduces and those that they need: all whose code it depends on.

    Raises:
        ConfigError: no metric of that name.
    """
    info, looks = METRICS[name], list(METRICS[name].passes)
    for look in looks:
        looks += [other for other in PASSES[look].needs if other not in looks]
    return [info, *(PASSES[look] for look in looks)]


def metric_catalog() -> list[MetricInfo]:
    """Every registered metric, in registration order."""
    return list(METRICS.values())


def metric_info(name: str) -> MetricInfo:
    """One registered metric.

    Raises:
        ConfigError: no metric of that name; the nearest is named.
    """
    return METRICS[name]


def with_inequalities(
    names: Iterable[str], options: Options | None = None
) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """Names of metrics and of the inequalities that bound them, and options for all.

    An inequality for which none are given has its metric's options, as far as it takes them.
    """
    asked, given = list(dict.fromkeys(names)), dict(options or {})
    for info in METRICS.values():
        if info.bounds not in asked or info.name in asked:
            continue
        asked.append(info.name)
        functions = (info.function, *(PASSES[name].function for name in info.passes))
        known = {key for function in functions for key in _defaults(function)}
        taken = {k: v for k, v in given.get(info.bounds, {}).items() if k in known}
        if taken and info.name not in given:
            given[info.name] = taken
    return asked, given


def check_metric_names(names: Iterable[str] | None, options: Options | None = None) -> None:
    """Refuse unknown metrics, unknown options and bad option values, before any model exists.

    Raises:
        ConfigError: says what was found, the nearest valid name, and what is allowed.
    """
    if isinstance(names, str):
        metric_info(names)
        raise ConfigError(f"metrics must be a list of names: [{names!r}], not {names!r}")
    for name in names or ():
        if not isinstance(name, str):
            raise ConfigError(f"metrics must be names, such as 'mls'; found {name!r} among them")
        metric_info(name)
    resolve_options(options)


def resolve_options(options: Options | None) -> dict[str, dict[str, Any]]:
    """Options by metric or pass name, checked, as the functions take them: only those given.

    Raises:
        ConfigError: an unknown name or option, or a value that is not allowed.
    """
    resolved: dict[str, dict[str, Any]] = {}
    for name, values in (options or {}).items():
        if name not in METRICS and name not in PASSES:
            raise METRICS.unknown(name, also=PASSES)
        functions = [PASSES[name].function] if name in PASSES else []
        if name in METRICS:
            functions = [PASSES[look].function for look in METRICS[name].passes]
            functions.append(METRICS[name].function)
        resolved[name] = checked_options(functions, values, f"options.{name}")
    for name in resolved:
        _check_together(name, resolved)
    return resolved


def options_of(info: MetricInfo, options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of all options of a metric, and by name those of each of its passes.

    What is given for the metric comes before what is given for the pass, and that before defaults.

    Args:
        info: the metric.
        options: as `resolve_options` returns them.
    """
    given = {key: value for name in info.passes for key, value in options.get(name, {}).items()}
    given |= options.get(info.name, {})
    own = {key: given.get(key, default) for key, default in _defaults(info.function).items()}
    of_metric = {**own, **options.get(info.name, {})}
    looks = {}
    for name in info.passes:
        values = pass_options(name, options)
        looks[name] = {key: of_metric.get(key, value) for key, value in values.items()}
    return own, looks


def pass_options(name: str, options: Options) -> dict[str, Any]:
    """The values of all options of a pass, as given for the pass itself or their defaults."""
    return {**_defaults(PASSES[name].function), **options.get(name, {})}


def _check_together(name: str, options: Options) -> None:
    values = {name: pass_options(name, options)} if name in PASSES else {}
    if name in METRICS:
        values = options_of(METRICS[name], options)[1]
    for look, found in values.items():
        check = PASSES[look].check
        if check is None:
            continue
        try:
            check(**found)
        except ValueError as error:
            raise ConfigError(f"options.{name}: {error}") from None


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of a function and what they are where none are given.

    Raises:
        ConfigError: one has no default.
    """
    parameters = option_parameters(function)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty:
            where = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
            raise ConfigError(f"option {name!r} of {where} must have a default")
    return {name: parameter.default for name, parameter in parameters.items()}
