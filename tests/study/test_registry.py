"""The one register: names, the nearest name, options read from the signature and checked."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import Field

from flatscale.errors import ConfigError, ModelError
from flatscale.study.registry import Registered, Registry


def build(x: object, *, width: Annotated[int, Field(ge=1)] = 3, channels: tuple[int, ...] = ()):
    """What it does,
    in one paragraph.

    More.
    """


def other(*, needed: float, flag: bool = False):
    pass


@pytest.fixture
def registry() -> Registry[Registered]:
    found: Registry[Registered] = Registry("model", ModelError)
    found.add(Registered(name="build", function=build))
    found.add(Registered(name="other", function=other))
    return found


def test_the_nearest_name_is_named_and_all_are_listed(registry: Registry[Registered]) -> None:
    with pytest.raises(
        ModelError, match=r"unknown model 'biuld' \(did you mean 'build'\?\); known: "
    ):
        registry["biuld"]
    assert list(registry) == ["build", "other"]
    assert registry["build"].meaning == "What it does, in one paragraph."


def test_a_list_is_taken_where_a_tuple_is_declared(registry: Registry[Registered]) -> None:
    found = registry.checked_options("build", {"channels": [16, 16, 32]})
    assert found == {"channels": (16, 16, 32)}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("build", {"width": "3"}, r"'width': input should be a valid integer; found '3'"),
        ("build", {"width": True}, r"'width': input should be a valid integer; found True"),
        ("build", {"width": 0}, r"'width': .*greater than or equal to 1; found 0"),
        ("build", {"channels": [1.5]}, r"'channels\.0': .*found 1\.5"),
        ("build", {"widht": 3}, r"unknown option 'widht' \(did you mean 'width'\?\)"),
        ("other", {}, "'needed' is required"),
    ],
)
def test_a_bad_option_is_named(
    registry: Registry[Registered], name: str, options: dict[str, object], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        registry.checked_options(name, options)


def test_a_taken_name_is_refused_and_the_same_function_loaded_anew_is_not() -> None:
    registry: Registry[Registered] = Registry("metric")
    registry.add(Registered(name="one", function=build))
    registry.add(Registered(name="one", function=build))
    with pytest.raises(ConfigError, match=r"'one' is registered already, by .*build; choose"):
        registry.add(Registered(name="one", function=other))
