"""Which plugins' code a trial's result depends on: it enters the trial's id and its record.

A changed function is another function: what was computed by the old one is not taken for the new
one's. A thing of a plugin is named by the hash of the source of the module that defines it, or by
the version that it declares (`@metric(..., version="2")`), which then alone tells one code from
another. flatscale's own things are not: what they compute changes with flatscale's version only.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flatscale.errors import ConfigError
from flatscale.study.identity import content_hash

if TYPE_CHECKING:
    from flatscale.study.plan import TrialSpec
    from flatscale.study.registry import Registered

Thing = tuple[str, str]
"""Kind and name, such as ("metric", "mls")."""


def things_of_network(spec: TrialSpec) -> tuple[Thing, ...]:
    """The registered things that determine a trial's network."""
    training = spec.training
    parts = {"schedule": training.schedule, "average": training.averaging}
    optimizers, around = [training.optimizer.name], training.optimizer.base
    while around is not None:
        optimizers.append(around.name)
        around = around.base
    return (
        ("dataset", spec.data.source),
        ("model", spec.architecture),
        ("loss", training.loss),
        *((("pixels", spec.data.pixels),) if spec.data.pixels else ()),
        *(("optimizer", name) for name in optimizers),
        *((kind, part.name) for kind, part in parts.items() if part is not None),
    )


def things_of_measurement(spec: TrialSpec) -> tuple[Thing, ...]:
    """The registered things that determine what is measured of it; a metric's passes with it."""
    metrics = (("metric", name) for name in spec.measurement.metrics)
    return (("loss", spec.measurement.loss or spec.training.loss), *metrics)


def with_code(spec: TrialSpec, code: Mapping[str, str]) -> TrialSpec:
    """A trial with the code of the plugins that it uses; the same one where it uses none.

    Args:
        spec: the trial.
        code: as `StudyConfig.plugin_code` has it.
    """
    parts = {
        "network_code": _used(things_of_network(spec), code),
        "measurement_code": _used(things_of_measurement(spec), code),
    }
    found = {name: part for name, part in parts.items() if part}
    return spec.model_copy(update=found) if found else spec


def code_of_all(specs: Iterable[TrialSpec]) -> dict[str, str]:
    """The code of all plugins that any of the trials uses."""
    parts = (part for spec in specs for part in (spec.network_code, spec.measurement_code))
    return {key: version for part in parts for key, version in part.items()}


def key_of(thing: Thing) -> str:
    """A thing as studies and records name it: `metric mls`."""
    return " ".join(thing)


def code_version(entries: Iterable[Registered]) -> str | None:
    """What names the code of registered things that are used together; None if flatscale's own.

    Raises:
        ConfigError: the source of one cannot be read, and it declares no version.
    """
    versions = [version for entry in entries if (version := _version(entry))]
    return versions[0] if len(versions) == 1 else content_hash(versions) if versions else None


def _version(entry: Registered) -> str | None:
    function = _innermost(entry.function)
    module = getattr(function, "__module__", None) or ""
    if module.partition(".")[0] == "flatscale":
        return None
    if entry.version is not None:
        return f"version {entry.version}"
    try:
        return _source_hash(module)
    except (KeyError, OSError, TypeError) as error:
        raise ConfigError(
            f"plugins: the source of {entry.name!r} (module {module!r}) cannot be read, so a "
            f'change of it would go unnoticed: give its decorator a version="..." ({error})'
        ) from error


@functools.lru_cache
def _source_hash(module: str) -> str:
    source = inspect.getsource(sys.modules[module])
    lines = "\n".join(line.rstrip() for line in source.splitlines())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.unwrap(function)


def _used(things: Iterable[Thing], code: Mapping[str, str]) -> dict[str, str]:
    return {key: code[key] for key in sorted(map(key_of, things)) if key in code}
