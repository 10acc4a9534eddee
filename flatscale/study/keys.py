"""The keys of the study file by their places, found in the classes of its schema."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Tag

FREE = object()
"""Stands for a place where any key may be: the options of something registered."""


def known_keys(annotation: Any, place: Sequence[int | str]) -> list[str]:
    """The keys allowed at a place inside an annotation; none where it is no mapping with keys."""
    for part in place:
        annotation = step(annotation, part)
    return list(next((m.model_fields for m in _models(annotation)), {}))


def step(annotation: Any, part: int | str) -> Any:
    """The annotation of what is at a key, an index or a union's tag; None where nothing can be."""
    if annotation is FREE:
        return FREE
    for option in _options(annotation):
        origin, arguments = get_origin(option), get_args(option)
        if origin is Annotated:
            if any(isinstance(extra, Tag) and extra.tag == part for extra in arguments[1:]):
                return arguments[0]
            if (found := step(arguments[0], part)) is not None:
                return found
        elif isinstance(option, type) and issubclass(option, BaseModel):
            if part in option.model_fields:
                return option.model_fields[str(part)].annotation
            if isinstance(part, str) and option.model_config.get("extra") == "allow":
                return FREE
        elif origin is tuple and isinstance(part, int):
            return arguments[0]
        elif origin is dict and isinstance(part, str):
            return arguments[1]
    return None


def model_at(annotation: Any) -> type[BaseModel] | None:
    """The class of a part of the schema that an annotation allows, if it allows one."""
    return next(_models(annotation), None)


def dotted_keys(part: type[BaseModel], *prefix: str) -> Iterator[str]:
    """Every key below a part of the schema, written with dots; three below its prefix at most."""
    for name, field in part.model_fields.items():
        yield ".".join((*prefix, name))
        inner = model_at(field.annotation)
        if inner is not None and len(prefix) < 3:
            yield from dotted_keys(inner, *prefix, name)


def with_file_keys(schema: dict[str, Any]) -> dict[str, Any]:
    """A study's JSON Schema with what a file may hold besides: `profiles`, `base` and `set`."""
    values = {"type": "object", "description": "Dotted keys of the study and their values."}
    own = {
        "profiles": {
            "type": "object",
            "description": "Values to write over the study, by the name that --profile takes.",
            "additionalProperties": values,
        },
        "base": {
            "type": "string",
            "description": "A study file below this one; keys of this file take the place of its.",
        },
        "set": {**values, "description": "Values to write over the base, by dotted keys."},
    }
    return {**schema, "properties": {**schema["properties"], **own}}


def short_names(keys: Sequence[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Each dotted key by its shortest ending that no other key and no name taken has.

    `model.options.width` is `width`, unless another key ends so, too.
    """
    shown = {}
    for key in keys:
        parts = key.split(".")
        endings = [".".join(parts[start:]) for start in reversed(range(len(parts)))]
        shown[key] = next(
            (e for e in endings if e not in taken and not _is_ending(e, keys, key)), key
        )
    return shown


def resolve_name(name: str, keys: Sequence[str]) -> str | None:
    """The one dotted key that a name is, or is the ending of; None where there is not one."""
    if name in keys:
        return name
    ending = [key for key in keys if key.endswith(f".{name}")]
    return ending[0] if len(ending) == 1 else None


def _is_ending(name: str, keys: Sequence[str], but: str) -> bool:
    return any(key != but and f".{key}".endswith(f".{name}") for key in keys)


def _options(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(o for inner in get_args(annotation) for o in _options(inner))
    return (annotation,)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for option in _options(annotation):
        if get_origin(option) is Annotated:
            yield from _models(get_args(option)[0])
        elif isinstance(option, type) and issubclass(option, BaseModel):
            yield option
