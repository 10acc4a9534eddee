"""Reading a study file: YAML in, a validated StudyConfig out, or one message naming every fault."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from flatscale.errors import ConfigError
from flatscale.study.bundled import study_file
from flatscale.study.keys import known_keys
from flatscale.study.redaction import without_passwords
from flatscale.study.registry import nearest
from flatscale.study.schema import StudyConfig
from flatscale.study.table_study import TableStudy

_Study = TypeVar("_Study", StudyConfig, TableStudy)
_TYPE = re.compile(r"bool|int|float|str|tuple\[.*\]")


class SafeUniqueKeyLoader(yaml.SafeLoader):
    """YAML's plain types, no tag of which makes a Python object; a key given twice is refused."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in getattr(node, "value", ()):
            line = key.start_mark.line + 1
            if key.value != "<<" and lines.setdefault(str(key.value), line) != line:
                raise yaml.YAMLError(
                    f"the key {key.value!r} is given twice, in lines {lines[key.value]} and "
                    f"{line}; keep one of them"
                )
        return super().construct_mapping(node, deep)


def load_config(
    path: str | Path, overrides: tuple[str, ...] = (), profile: str | None = None
) -> StudyConfig:
    """Read and validate a study file whose networks are trained or measured; see `load_study`.

    Raises:
        ConfigError: the file has a fault, or is the study of a table.
    """
    study = load_study(path, overrides, profile)
    if isinstance(study, TableStudy):
        raise ConfigError(
            f"{path} is the study of a table: it has no networks to plan or measure; "
            "`flatscale run` analyses it"
        )
    return study


def load_study(
    path: str | Path, overrides: tuple[str, ...] = (), profile: str | None = None
) -> StudyConfig | TableStudy:
    """Read and validate a study file, of networks or of a table (where it has the key `table`).

    Args:
        path: a YAML file, or the name of a study that comes with flatscale.
        overrides: `key.path=value` strings, values in YAML, applied over the file and the profile.
        profile: which of the file's `profiles` to write over it; by default the file itself.

    Raises:
        ConfigError: one message with every fault: the key's path, what was found, what is allowed.
    """
    content = _content_of(study_file(path))
    _apply_profile(content, profile, str(path))
    for override in overrides:
        _apply_override(content, override)
    if "table" in content:
        return parse_table_study(content, str(path))
    return parse_config(content, str(path))


def _content_of(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a study file holds, written over the study file that it names as its `base`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the study file {path}: {_short(error)}") from error
    try:
        content = yaml.load(text, Loader=SafeUniqueKeyLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {_short(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} must hold a mapping with the keys {', '.join(StudyConfig.model_fields)}; "
            f"found {'nothing' if content is None else type(content).__name__}"
        )
    try:
        content = _unshared(content)
    except RecursionError:
        raise ConfigError(f"{path} is not a valid study: it refers to itself") from None
    base = content.pop("base", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base must be a study file; found {_short(repr(base))}")
    found = path.parent / base
    if found.resolve() in (known := (*above, path.resolve())):
        raise ConfigError(f"{path}: base names {base}, whose own base is this file")
    below, changed = _content_of(found, known), content.pop("set", {})
    both = {**below, **content}
    if isinstance(inherited := below.get("profiles"), dict):
        own = content.get("profiles") or {}
        both["profiles"] = {**inherited, **own} | {
            name: {**inherited[name], **own[name]} for name in inherited if name in own
        }
    for key, value in changed.items():
        _write(both, key, value, f"{path}: set: {key}")
    return both


def _unshared(value: Any) -> Any:
    """A copy in which what YAML's `*alias` names stands in each place by itself, to be changed."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def parse_config(content: dict[str, Any], where: str = "the study") -> StudyConfig:
    """Validate a study given as a mapping; see `load_config`."""
    return _validated(StudyConfig, content, where)


def parse_table_study(content: dict[str, Any], where: str = "the study") -> TableStudy:
    """Validate the study of a table given as a mapping."""
    return _validated(TableStudy, content, where)


def _validated(kind: type[_Study], content: dict[str, Any], where: str) -> _Study:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        # A list whose items are refused counts as too short: that is no fault of its own.
        within = {f["loc"][:k] for f in found for k in range(len(f["loc"]))}
        own = [f for f in found if f["type"] != "too_short" or f["loc"] not in within]
        faults = "\n".join(dict.fromkeys(f"  {_describe(fault, kind)}" for fault in own))
        raise ConfigError(f"{where} is not a valid study:\n{faults}") from None
    except RecursionError:
        raise ConfigError(f"{where} is not a valid study: it refers to itself") from None


def _apply_profile(content: dict[str, Any], profile: str | None, where: str) -> None:
    """Write a profile's values over the study, and its name; take the profiles out of it."""
    profiles = content.pop("profiles", {})
    whole = isinstance(profiles, dict) and all(isinstance(p, dict) for p in profiles.values())
    if not whole or not all(isinstance(key, str) for p in profiles.values() for key in p):
        raise ConfigError(
            f"{where}: profiles must hold, for each name, keys of the study with their values, "
            f"such as {{laptop: {{design.num_seeds: 2}}}}; found {_short(repr(profiles))}"
        )
    if profile is None:
        return
    if profile not in profiles:
        known = f"its profiles are {', '.join(profiles)}" if profiles else "it has no profiles"
        raise ConfigError(
            f"{where} has no profile {profile!r}{nearest(profile, list(profiles))}; {known}"
        )
    for key, value in profiles[profile].items():
        _write(content, key, value, f"profile {profile!r}: {key}")
    content["profile"] = profile


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
    _write(content, key, value, f"the override {override!r}")


def _write(content: dict[str, Any], key: str, value: Any, said: str) -> None:
    """Write a value at a dotted key, making the mappings on the way to it."""
    *parents, last = key.split(".")
    if "axes" in parents:  # the key of an axis is one key, with dots in it
        at = parents.index("axes") + 1
        parents, last = parents[:at], ".".join([*parents[at:], last])
    node: Any = content
    for parent in parents:
        place = _place(node, parent, said)
        node = node.setdefault(place, {}) if isinstance(node, dict) else node[place]
        if not isinstance(node, dict | list):
            raise ConfigError(f"{said} goes through {parent!r}, not a mapping")
    node[_place(node, last, said)] = value


def _place(node: dict[str, Any] | list[Any], key: str, said: str) -> Any:
    """A key of a mapping, or a number of an item that a list has, counted from 0."""
    if isinstance(node, dict):
        return key
    if not (key.isdigit() and int(key) < len(node)):
        raise ConfigError(f"{said}: {key!r} must be 0 to {len(node) - 1}")
    return int(key)


def _describe(fault: Any, kind: type[BaseModel]) -> str:
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
        known = known_keys(kind, fault["loc"][:-1])
        hint = nearest(str(fault["loc"][-1]), known)
        return f"{where}: unknown key{hint}; allowed here: {', '.join(known)}"
    if fault["type"] == "missing":
        return f"{where}: required, but not given"
    found = _short(repr(fault["input"]))
    if fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        known = known_keys(kind, fault["loc"])
        hint = f" (did you mean {{{known[0]}: {found}}}?)" if known and found[:1] == "'" else ""
        keys = f" with the keys {', '.join(known)}" if known else ""
        return f"{where}: must be a mapping{keys}; found {found}{hint}"
    if fault["type"] == "too_short":
        least = fault["ctx"]["min_length"]
        return f"{where}: must have at least {least} item{'s' * (least > 1)}; found {found}"
    if fault["type"] == "tuple_type" and fault["input"] is None:
        return f"{where}: required, but not given; a list is expected"
    if fault["type"] == "string_pattern_mismatch" and where == "name":
        return (
            f"{where}: must be letters, digits, '_', '.' or '-', at most 100, the first a letter "
            f"or a digit; found {found}"
        )
    if fault["type"] == "tuple_type":
        return f"{where}: must be a list, such as [{found}]; found {found}"
    if not where:
        return message
    return f"{where}: {message[:1].lower()}{message[1:]}; found {found}"


def _short(value: object, limit: int = 200) -> str:
    text = without_passwords(" ".join(str(value).split()))
    return text if len(text) <= limit else text[: limit - 1] + "…"
