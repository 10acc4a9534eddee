"""The one register behind every extension point: names, the nearest name, options, checked.

A metric, pass, model, dataset, optimizer, loss, statistic or report section is one decorated
function. Its options are the keyword-only arguments of that function: their annotations say what is
allowed (pydantic's, so `Annotated[int, Field(ge=1)]` states a range), their defaults what is taken.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from flatscale.errors import ConfigError, FlatscaleError


@dataclass(frozen=True, kw_only=True)
class Registered:
    """One registered thing; each kind adds what is known about its own."""

    name: str
    """What a study file calls it."""
    function: Callable[..., Any]
    """What was decorated."""
    version: str | None = None
    """What a plugin's author names this code by, in place of a hash of its module's source."""

    @property
    def meaning(self) -> str:
        """The first paragraph of the function's docstring, on one line."""
        return " ".join((inspect.getdoc(self.function) or "").split("\n\n")[0].split())


Entry = TypeVar("Entry", bound=Registered)


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Everything of one kind by its name, in the order of registration.

    Args:
        kind: what its things are called in messages, such as `metric`.
        error: what is raised for a name or an option that cannot be used.
        also: names allowed beside those registered, as a message lists them.
    """

    def __init__(
        self, kind: str, error: type[FlatscaleError] = ConfigError, also: Iterable[str] = ()
    ) -> None:
        self.kind = kind
        self._error = error
        self._also = tuple(also)
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Register a thing under its name; the same function again, from a module loaded anew,
        takes the place of the first.

        Raises:
            FlatscaleError: the name is taken by another function.
        """
        taken = self._entries.get(entry.name)
        if taken is not None and _place(taken.function) != _place(entry.function):
            raise self._error(
                f"a {self.kind} named {entry.name!r} is registered already, by "
                f"{_place(taken.function)}; choose another name for {_place(entry.function)}"
            )
        self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Entry:
        """The thing of that name.

        Raises:
            FlatscaleError: there is none; the nearest is named, and all are listed.
        """
        if name not in self._entries:
            raise self.unknown(name)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def unknown(self, name: str, *, also: Iterable[str] = ()) -> FlatscaleError:
        """The error for a name that nothing here has; `also` are further names allowed."""
        return self._error(unknown_name(self.kind, name, [*self._entries, *self._also, *also]))

    def checked_options(
        self, name: str, options: Mapping[str, Any], where: str | None = None
    ) -> dict[str, Any]:
        """Options of one thing, as its function takes them: only those given.

        Args:
            name: of the thing.
            options: values by option.
            where: what a message calls them; `options of 'name'` by default.

        Raises:
            FlatscaleError: an unknown name or option, or a value of the wrong type or range.
        """
        where = f"options of {name!r}" if where is None else where
        return checked_options([self[name].function], options, where, self._error)


def checked_options(
    functions: Iterable[Callable[..., Any]],
    options: Mapping[str, Any],
    where: str,
    error: type[FlatscaleError] = ConfigError,
) -> dict[str, Any]:
    """Options checked against the keyword-only arguments of functions, as these take them.

    A list is taken where a tuple is declared; nothing else is converted: `"3"` is no number.

    Args:
        functions: whose keyword-only arguments are allowed, together.
        options: values by option.
        where: what to call them in a message, if anything.
        error: what is raised.

    Raises:
        FlatscaleError: says every fault: the option, what was found, what is allowed.
    """
    functions = tuple(functions)
    if not isinstance(options, Mapping):
        raise error(f"{where or 'this'} must be a mapping of option to value; found {options!r}")
    schema = _schema(functions)
    try:
        found = _validated(schema, dict(options))
    except ValidationError as problem:
        faults = "; ".join(
            _describe(fault, list(schema.model_fields)) for fault in problem.errors()
        )
        raise error(f"{where}: {faults}" if where else faults) from None
    return {name: getattr(found, name) for name in options}


def import_plugins(modules: Iterable[str]) -> None:
    """Import every named module, for what its decorators register; the current folder counts.

    Raises:
        ConfigError: a module cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"plugins: cannot import {name!r} ({type(error).__name__}: {error}). It must be an "
                "importable module: installed, or in the folder the command is run from"
            ) from error


def option_parameters(*functions: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only arguments of functions, by name."""
    return {name: p for f in functions for name, p in _keyword_only(f)}


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` when a known name is close, else the empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The one sentence for a name that does not exist: what was found, the nearest, all known."""
    names = sorted(known)
    return f"unknown {kind} {name!r}{nearest(name, names)}; known: {', '.join(names)}"


def _place(function: Callable[..., Any]) -> str:
    """module.name of a function."""
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{getattr(function, '__module__', '?')}.{name}"


@lru_cache(maxsize=1024)
def _keyword_only(function: Callable[..., Any]) -> tuple[tuple[str, inspect.Parameter], ...]:
    parameters = inspect.signature(function, eval_str=True).parameters
    return tuple((n, p) for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY)


@lru_cache(maxsize=1024)
def _schema(functions: tuple[Callable[..., Any], ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (
            Any if p.annotation is p.empty else p.annotation,
            ... if p.default is p.empty else p.default,
        )
        for name, p in option_parameters(*functions).items()
    }
    settings = ConfigDict(
        extra="forbid", strict=True, protected_namespaces=(), arbitrary_types_allowed=True
    )
    return create_model("Options", __config__=settings, **fields)


def _validated(schema: type[BaseModel], options: dict[str, Any]) -> BaseModel:
    """Strict, by JSON's rules where the options are JSON: it has one kind of list."""
    try:
        text = json.dumps(options)
    except (TypeError, ValueError):
        return schema.model_validate(options)
    return schema.model_validate_json(text)


def _describe(fault: Any, allowed: list[str]) -> str:
    name = ".".join(map(str, fault["loc"])) or "options"
    if fault["type"] == "extra_forbidden":
        known = f"allowed: {', '.join(allowed)}" if allowed else "it takes none"
        return f"unknown option {name!r}{nearest(name, allowed)}; {known}"
    if fault["type"] == "missing":
        return f"{name!r} is required"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name!r}: {message[:1].lower()}{message[1:]}; found {fault['input']!r}"
