"""A study file is accepted whole or refused with every fault named."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatscale.errors import ConfigError
from flatscale.study.plan import plan
from flatscale.study.reading import load_config, parse_config
from flatscale.study.schema import StudyConfig, json_schema

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MINIMAL = {
    "name": "study",
    "models": [{"architecture": "mlp"}],
    "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [16]},
}


def changed(**parts: object) -> dict[str, object]:
    return {**MINIMAL, **parts}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_studies_are_valid(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(measurment={}), ["measurment: unknown key", "did you mean 'measurement'?"]),
        (
            changed(models=[{"architecture": "mlp", "famly": "x"}]),
            ["models[0].famly: unknown key", "'family'", "architecture"],
        ),
        (
            changed(design={"kind": "gird"}),
            ["design", "'gird'", "'grid', 'sobol'"],
        ),
        (
            changed(design={"kind": "sobol", "learning_rate": {"low": 1, "high": 0.1}}),
            ["design.learning_rate: low (1) must be smaller than high (0.1)", "design.num_points"],
        ),
        (changed(name="../escape"), ["name", "'../escape'"]),
        (changed(name="a/b"), ["name"]),
        (changed(models=[]), ["models"]),
        (
            changed(design={"kind": "grid", "learning_rate": [-1], "batch_size": [1]}),
            ["design.learning_rate[0]", "greater than 0", "-1"],
        ),
        (
            changed(design={"kind": "grid", "learning_rate": [float("nan")], "batch_size": [1]}),
            ["design.learning_rate[0]", "nan"],
        ),
        (
            changed(design={"kind": "grid", "learning_rate": [0.1, 0.1], "batch_size": [1]}),
            ["design.learning_rate", "twice"],
        ),
        (
            changed(training={"optimizer": {"momentum": 1.5}}),
            ["training.optimizer.momentum", "1.5"],
        ),
        (
            changed(training={"optimizer": {"name": "adam", "betas": {"a": 1}}}),
            ["training.optimizer.betas: must be true, false, a finite number, a text or a list"],
        ),
        (changed(data={"classes": ["cat", "cat"]}), ["data.classes", "twice"]),
        ({"models": []}, ["name: required", "design: required"]),
    ],
)
def test_a_fault_names_its_place_what_was_found_and_what_is_allowed(
    content: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(content)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "a: [", "!!python/object/apply:os.system ['true']", "\x00", "a: *b"]
)
def test_a_file_that_is_no_study_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        load_config(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        load_config(tmp_path / "absent.yaml")


def test_overrides_reach_any_key_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    study = load_config(path, ("data.train_size=64", "training.optimizer.momentum=0.9", "seed=3"))
    assert (study.data.train_size, study.training.optimizer.momentum, study.seed) == (64, 0.9, 3)
    with pytest.raises(ConfigError, match=r"data\.train_size"):
        load_config(path, ("data.train_size=many",))
    with pytest.raises(ConfigError, match=r"key\.path=value"):
        load_config(path, ("seed",))


def test_an_optimizer_has_constants_of_its_own_which_a_stored_study_keeps() -> None:
    constants = {"name": "adam", "betas": [0.9, 0.99], "weight_decay": 1, "amsgrad": True}
    study = parse_config(changed(training={"optimizer": constants}))
    given = {"weight_decay": 1.0, "betas": (0.9, 0.99), "amsgrad": True}
    assert study.training.optimizer.constants == given
    assert parse_config(study.shown()) == study
    assert study != parse_config(changed(training={"optimizer": {**constants, "amsgrad": False}}))


def test_a_study_is_frozen_and_survives_a_round_trip() -> None:
    study = parse_config(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 1  # type: ignore[misc]
    again = parse_config(json.loads(study.model_dump_json()))
    assert again == study
    assert again.content_hash == study.content_hash


def test_every_field_is_documented_in_the_schema() -> None:
    schema = json_schema()
    parts = [schema, *schema["$defs"].values()]
    undocumented = [
        f"{part.get('title')}.{name}"
        for part in parts
        for name, field in part.get("properties", {}).items()
        if not field.get("description")
    ]
    assert undocumented == []
    of_the_file = {"profiles", "base", "set"}
    assert set(schema["properties"]) == {*StudyConfig.model_fields, *of_the_file}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(sorted(StudyConfig.model_fields)) | st.text(), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(sorted(StudyConfig.model_fields)), json_values))
def test_no_content_gets_past_the_loader_except_as_a_study_or_a_named_fault(
    content: dict[str, object],
) -> None:
    with suppress(ConfigError):
        study = parse_config({**MINIMAL, **content})
        assert all(len(spec.trial_id) == 16 for spec in plan(study))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_get_past_the_loader_except_as_a_named_fault(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"study\.yaml"):
        load_config(path)
