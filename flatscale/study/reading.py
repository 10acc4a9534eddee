"""Reading a study file: YAML in, a validated StudyConfig out, or one message naming every fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from flatscale.errors import ConfigError
from flatscale.study.keys import known_keys
from flatscale.study.redaction import without_passwords
from flatscale.study.registry import nearest
from flatscale.study.schema import StudyConfig

_TYPE = re.compile(r"bool|int|float|str|tuple\[.*\]")


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> StudyConfig:
    """Read and validate a study file.

    Args:
        path: a YAML file.
        overrides: `key.path=value` strings, values in YAML, applied over the file.

    Raises:
        ConfigError: one message with every fault: the key's path, what was found, what is allowed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the study file {path}: {_short(error)}") from error
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_short(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must hold a mapping with the keys {', '.join(StudyConfig.model_fields)}; "
            f"found {'nothing' if content is None else type(content).__name__}"
        )
    for override in overrides:
        _apply_override(content, override)
    return parse_config(content, where=str(path))


def parse_config(content: dict[str, Any], where: str = "the study") -> StudyConfig:
    """Validate a study given as a mapping; see `load_config`."""
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        # A list whose items are refused counts as too short: that is no fault of its own.
        within = {f["loc"][:k] for f in found for k in range(len(f["loc"]))}
        own = [f for f in found if f["type"] != "too_short" or f["loc"] not in within]
        faults = "\n".join(dict.fromkeys(f"  {_describe(fault)}" for fault in own))
        raise ConfigError(f"{where} is not a valid study:\n{faults}") from None
    except RecursionError:
        raise ConfigError(f"{where} is not a valid study: it refers to itself") from None


def _apply_override(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"an override is written key.path=value; found {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the override {override!r} is not valid YAML: {_short(error)}"
        ) from error
    *parents, last = key.split(".")
    if "axes" in parents:  # the key of an axis is one key, with dots in it
        at = parents.index("axes") + 1
        parents, last = parents[:at], ".".join([*parents[at:], last])
    node: Any = content
    for parent in parents:
        place = _place(node, parent, override)
        node = node.setdefault(place, {}) if isinstance(node, dict) else node[place]
        if not isinstance(node, dict | list):
            raise ConfigError(f"the override {override!r} goes through {parent!r}, not a mapping")
    node[_place(node, last, override)] = value


def _place(node: dict[str, Any] | list[Any], key: str, override: str) -> Any:
    """A key of a mapping, or a number of an item that a list has, counted from 0."""
    if isinstance(node, dict):
        return key
    if not (key.isdigit() and int(key) < len(node)):
        raise ConfigError(f"the override {override!r}: {key!r} must be 0 to {len(node) - 1}")
    return int(key)


def _describe(fault: Any) -> str:
    """One line for one pydantic fault: where, what was found, what is allowed."""
    # The forms that a key may have are named in brackets.
    location = [part for part in fault["loc"] if not str(part).startswith("(")]
    message = fault["msg"].removeprefix("Value error, ")
    types = [index for index, part in enumerate(location) if _TYPE.fullmatch(str(part))]
    if types and {"options", "optimizer"} & set(location):
        # pydantic names a fault once for each type that an option's value might have.
        location = location[: types[0]]
        message = "must be true, false, a finite number, a text or a list of these"
    where = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).lstrip(".")
    if fault["type"] == "extra_forbidden":
        known = known_keys(StudyConfig, fault["loc"][:-1])
        hint = nearest(str(fault["loc"][-1]), known)
        return f"{where}: unknown key{hint}; allowed here: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"{where}: required, but not given"
    found = _short(repr(fault["input"]))
    if fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        known = known_keys(StudyConfig, fault["loc"])
        hint = f" (did you mean {{{known[0]}: {found}}}?)" if known and found[:1] == "'" else ""
        keys = f" with the keys {', '.join(known)}" if known else ""
        return f"{where}: must be a mapping{keys}; found {found}{hint}"
    if fault["type"] == "tuple_type":
        return f"{where}: must be a list, such as [{found}]; found {found}"
    if not where:
        return message
    return f"{where}: {message[:1].lower()}{message[1:]}; found {found}"


def _short(value: object, limit: int = 200) -> str:
    text = without_passwords(" ".join(str(value).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
