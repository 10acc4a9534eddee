"""What every part of the study file is made of: the base class and the types of its numbers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Tag,
    model_validator,
)

OptionValue = bool | int | FiniteFloat | str | tuple[bool | int | FiniteFloat | str, ...]
Options = dict[str, OptionValue]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
BatchSize = Annotated[
    Annotated[PositiveInt, Tag("(number)")] | Annotated[Literal["full"], Tag("(word)")],
    Discriminator(
        lambda v: "(word)" if isinstance(v, str) and not v.strip().isdecimal() else "(number)"
    ),
]
"""Points a step; `full` is the whole training set."""


class Part(BaseModel):
    """A part of the study file: frozen, without unknown keys, every field documented."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Named(Part):
    """One of a kind by its name, its constants as further keys; a name alone will do."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Options = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _of_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core)]}

    @property
    def constants(self) -> Options:
        """The further keys."""
        return dict(self.model_extra or {})


def distinct(kind: str) -> AfterValidator:
    """Refuses a list that has one thing twice."""

    def check(value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a {kind} is listed twice")
        return value

    return AfterValidator(check)
