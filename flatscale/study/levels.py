"""Keys and levels of axes: which there can be, what a level stands for, what it is called.

A level is a number, a word, a list, or a whole sub-document, with a label of its own or one made of
its values. Keys and levels are checked against the classes of the schema, which it names with
`declare_parts`; options of what is registered are checked by `flatscale.preflight`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from flatscale.study.keys import dotted_keys, known_keys, model_at, step
from flatscale.study.registry import nearest

LEARNING_RATE, BATCH_SIZE = "training.learning_rate", "training.batch_size"
COLUMNS = {LEARNING_RATE: "learning_rate", BATCH_SIZE: "batch_size"}
"""The two axes that have a column of their own in every record; others are called by their key."""
Place = tuple[int | str, ...]
Label = int | float | str

_parts: dict[str, type[BaseModel]] = {}
_no_axis: dict[str, str] = {}
_NAMING = ("source", "architecture", "name")


def declare_parts(parts: Mapping[str, type[BaseModel]], no_axis: Mapping[str, str]) -> None:
    """Say which documents a trial is made of, and which of their keys can be no axis, and why."""
    _parts.update(parts)
    _no_axis.update(no_axis)


class DesignFaults:
    """Everything wrong with a design, raised as pydantic raises: each fault with its place."""

    def __init__(self) -> None:
        self._found: list[InitErrorDetails] = []

    def add(self, place: Place, message: str, found: Any = None) -> None:
        """Note a fault; `found` is what is there."""
        # A message is no template: what users wrote in it stays as it is.
        error = PydanticCustomError("axis", "{said}", {"said": message})
        self._found.append(InitErrorDetails(type=error, loc=place, input=found))

    def add_from(self, part: type[BaseModel], fault: Any, place: Place, depth: int = 0) -> None:
        """Note what is wrong in a part of the schema; `place` stands for its first `depth` keys."""
        loc = tuple(p for p in fault["loc"][depth:] if not _is_type(p))
        self.add((*place, *loc), _said(fault, part), fault["input"])

    def check_key(self, key: str, place: Place) -> bool:
        """Note it if a dotted key can be no axis; whether it can."""
        said = key_fault(key)
        if said is not None:
            self.add(place, said, key)
        return said is None

    def raise_any(self) -> None:
        """Raise what was noted."""
        if self._found:
            raise ValidationError.from_exception_data("design", self._found)


def key_fault(key: str) -> str | None:
    """Why a dotted key can be no axis, with the nearest that can; None where it can."""
    root, *rest = key.split(".")
    annotation: Any = _parts.get(root)
    for part in rest:
        annotation = step(annotation, part)
    if (why := _why_no_axis(key)) is not None:
        return f"can be no axis: {why}"
    if annotation is not None:
        return None
    known = [k for name, part in _parts.items() for k in (name, *dotted_keys(part, name))]
    known = [k for k in known if _why_no_axis(k) is None]
    near = nearest(key, known) or nearest(
        key.rpartition(".")[2], [k.rpartition(".")[2] for k in known]
    )
    return f"is no key of {', '.join(_parts)}{near}"


def _why_no_axis(key: str) -> str | None:
    if key == "model":
        return "networks are listed under models; vary model.architecture or model.options"
    inside = (why for k, why in _no_axis.items() if key == k or key.startswith(f"{k}."))
    return next(inside, None)


def checked_level(key: str, level: Any, place: Place, faults: DesignFaults) -> Any:
    """A level as the schema takes it; what is wrong with it is noted."""
    if key_fault(key) is not None:
        return level
    root, *path = key.split(".")
    value = value_of(key, level)
    document: Any = {} if path and root != "model" else {"architecture": "?"} if path else value
    if path:
        put(document, path, value)
    try:
        part = _parts[root].model_validate(document)
    except ValidationError as error:
        for fault in error.errors():
            loc = fault["loc"]
            if list(loc[: len(path)]) == path or len(loc) < len(path):
                faults.add_from(_parts[root], fault, place, depth=len(path))
        return level
    if isinstance(value, dict):
        return level
    taken = get(part.model_dump(mode="json"), path)
    if isinstance(level, Mapping):
        return {**level, "value": taken} if set(level) == {"label", "value"} else level
    return taken


def _is_type(part: int | str) -> bool:
    """Whether a part of a place names a type that pydantic tried, and no key."""
    return isinstance(part, str) and part.rstrip("]").split("[")[0] in (
        *("bool", "int", "float", "str", "tuple", "constrained-int", "constrained-float"),
        *("constrained-str", "literal", "none"),
    )


def _said(fault: Any, part: type[BaseModel]) -> str:
    if fault["type"] == "extra_forbidden":
        known = known_keys(part, fault["loc"][:-1])
        return f"unknown key{nearest(str(fault['loc'][-1]), known)}; allowed: {', '.join(known)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def value_of(key: str, level: Any) -> Any:
    """What a level puts at its key: without its label, and a bare name as a document."""
    if isinstance(level, Mapping):
        if set(level) == {"label", "value"}:
            return level["value"]
        return {name: value for name, value in level.items() if name != "label"}
    if isinstance(level, str):
        annotation: Any = None
        for index, part in enumerate(key.split(".")):
            annotation = _parts[part] if index == 0 else step(annotation, part)
        if (model := model_at(annotation)) is not None:
            naming = next((name for name in _NAMING if name in model.model_fields), None)
            return level if naming is None else {naming: level}
    return level


def label_of(level: Any) -> Label:
    """What a level is called in tables: its number, its word, its label, or its values in short."""
    if isinstance(level, Mapping):
        if "label" in level:
            return label if isinstance(label := level["label"], Label) else str(label)
        return " ".join(_in_short(level)) or "(default)"
    if isinstance(level, list | tuple):
        return ",".join(str(label_of(item)) for item in level)
    if isinstance(level, bool):
        return str(level).lower()
    return "none" if level is None else level


def _in_short(document: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`sgd momentum=0.9` of {name: sgd, momentum: 0.9}."""
    for name, value in sorted(document.items(), key=lambda item: item[0] not in _NAMING):
        if isinstance(value, Mapping):
            yield from _in_short(value, f"{prefix}{name}.")
        elif name in _NAMING and not prefix:
            yield str(value)
        else:
            yield f"{prefix}{name}={label_of(value)}"


def is_level(wanted: Any, level: Any) -> bool:
    """Whether what `exclude` names is a level: its label, its value, or its document."""
    return wanted == level or label_of(wanted) == label_of(level)


def put(document: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set what is at a path inside a document, in place."""
    *parents, last = path
    for parent in parents:
        inner = document.get(parent)
        document[parent] = document = dict(inner) if isinstance(inner, Mapping) else {}
    document[last] = value


def get(document: Any, path: Sequence[str]) -> Any:
    """What is at a path inside a document; None where it has no such key."""
    for part in path:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document
