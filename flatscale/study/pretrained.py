"""The parts of the study file about networks that nobody here trained: zoos, weights, images."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from flatscale.study.parts import OptionValue, Part, PositiveFloat, PositiveInt


class Preprocessing(Part):
    """How an image file becomes an input of one network, as in timm's data configuration."""

    input_size: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Channels, height and width of the input."""
    interpolation: str = "bicubic"
    """Of the resizing."""
    crop_pct: PositiveFloat = 0.875
    """Share of the resized image's side that the crop keeps."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """How an image of another shape is made to fit."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Subtracted from each channel in [0, 1]."""
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    """Divides each channel after that."""


class WeightsConfig(Part):
    """Which weights a network is measured with."""

    source: Literal["file", "hub", "none"]
    """`file` (safetensors, or a torch file of tensors alone), `hub` (the Hugging Face hub or its
    local cache), or `none`: drawn from the study's seed, for a dry run."""
    location: str = ""
    """The file, or the repository on the hub; not part of a trial's id."""
    tag: str = ""
    """What tells these weights from others of the architecture, such as `augreg_in1k`."""
    content_hash: str | None = None
    """SHA-256 of the file, 16 hex digits, where it is known before the run."""


class ZooConfig(Part):
    """Networks found by a reader instead of listed."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, OptionValue | None] = Field(init=False)

    source: str = "timm"
    """The reader: `timm`, `folder`, `huggingface`, `modelzoo`, or a plugin's; other keys are its
    options."""
    families: dict[str, str] = Field(default_factory=dict)
    """Family by pattern of names (`*` and `?`), before what the reader says; the first fits."""

    @property
    def options(self) -> Mapping[str, Any]:
        """What is given to the reader."""
        return self.model_extra or {}


class OutcomeTable(Part):
    """A table of results that others published, one row a network."""

    table: str
    """A CSV or Parquet file."""
    on: str = "model"
    """Its column of the networks' names."""
    columns: dict[str, str] = Field(min_length=1)
    """Which of its columns are outcomes, and what they are called here."""
    names: dict[str, str] = Field(default_factory=dict)
    """Where the table calls networks otherwise: regular expressions of its whole names, and what
    they are called here, `\\1` for the first group; the first that fits counts."""

    @field_validator("names")
    @classmethod
    def _expressions(cls, names: dict[str, str]) -> dict[str, str]:
        for pattern, replacement in names.items():
            try:
                re.sub(pattern, replacement, "")
            except re.error as error:
                raise ValueError(
                    f"{pattern!r}: {replacement!r} is no rule of names: {error}"
                ) from None
        return names

    def name_here(self, name: str) -> str:
        """What a network of the table is called here."""
        fits = ((re.fullmatch(p, name), new) for p, new in self.names.items())
        return next((found.expand(new) for found, new in fits if found), name)


def moved_zoo(content: Any) -> Any:
    """`models: {zoo: ...}` written out: `zoo`, no models yet, no design."""
    if not isinstance(content, Mapping):
        return content
    listed = content.get("models")
    if not isinstance(listed, Mapping):
        required = {"models": None} if "models" not in content and "zoo" not in content else {}
        return {**content, **required}
    if set(listed) != {"zoo"}:
        raise ValueError(
            "models: must be a list of networks, or {zoo: {source: ...}}; found the keys "
            f"{', '.join(map(str, listed)) or 'of nothing'}"
        )
    others = {key: value for key, value in content.items() if key != "models"}
    return {"design": {"kind": "none"}, **others, "zoo": listed["zoo"]}


def check_weights(
    weights: Sequence[WeightsConfig | None], zoo: ZooConfig | None, designs: Collection[str]
) -> None:
    """Refuse a study that trains some of its networks, or has a design for what it does not train.

    Raises:
        ValueError: says which.
    """
    given = sum(one is not None for one in weights)
    if given not in (0, len(weights)):
        raise ValueError("models: some have weights, some are to be trained; make two studies")
    measured = zoo is not None or given > 0
    if set(designs) != {"none"} if measured else "none" in designs:
        raise ValueError("design: kind must be none where models have weights, and only there")


def models_or_zoo(schema: dict[str, Any]) -> dict[str, Any]:
    """The study file's JSON Schema, in which `models` may be a zoo, that needs no design."""
    models = schema["properties"]["models"]
    listed = {key: models.pop(key) for key in ("type", "items", "minItems")}
    zoo = {"properties": {"zoo": {"$ref": "#/$defs/ZooConfig"}}, "required": ["zoo"]}
    models["anyOf"] = [listed, {"type": "object", "additionalProperties": False, **zoo}]
    return {**schema, "required": [key for key in schema["required"] if key != "design"]}
