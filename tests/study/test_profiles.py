"""Study files over study files, and their profiles: what is run is the study they make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from flatscale.errors import ConfigError
from flatscale.metrics.passes.jacobian.leading_values import Accuracy
from flatscale.store.results import Store
from flatscale.study.plan import plan
from flatscale.study.reading import load_config, load_study, parse_config
from flatscale.study.table_study import TableStudy

ROOT = Path(__file__).resolve().parents[2]
PAPER = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
STUDY: dict[str, Any] = {
    "name": "small",
    "models": [{"architecture": "mlp", "options": {"width": 8}}],
    "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [16, 32], "num_seeds": 3},
}
LAPTOP = {"design.num_seeds": 1, "models.0.options.width": 4, "data.train_size": 60}


def written(folder: Path, file: str = "study.yaml", **content: Any) -> Path:
    path = folder / file
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_profile_is_the_study_that_its_values_make(tmp_path: Path) -> None:
    path = written(tmp_path, **STUDY, profiles={"laptop": LAPTOP, "empty": {}})
    assert load_config(path) == parse_config(STUDY)
    laptop = load_config(path, (), "laptop")
    by_hand = load_config(
        written(tmp_path, "hand.yaml", **STUDY), tuple(f"{k}={v}" for k, v in LAPTOP.items())
    )
    assert (laptop.profile, by_hand.profile) == ("laptop", None)
    assert laptop.content_hash == by_hand.content_hash != load_config(path).content_hash
    assert [s.trial_id for s in plan(laptop)] == [s.trial_id for s in plan(by_hand)]
    assert len(plan(laptop)) == 2
    assert load_config(path, (), "empty").content_hash == load_config(path).content_hash
    # What is said on the command line is said last.
    assert load_config(path, ("design.num_seeds=5",), "laptop").design.num_seeds == 5


def test_the_store_says_which_profile_was_run(tmp_path: Path) -> None:
    path = written(tmp_path, **STUDY, profiles={"laptop": LAPTOP})
    store = Store(tmp_path / "store")
    store.prepare(load_config(path, (), "laptop"))
    assert store.read_study().profile == "laptop"
    assert store.read_study() == load_config(path, (), "laptop")


@pytest.mark.parametrize(
    ("profiles", "asked", "message"),
    [
        ({"laptop": LAPTOP}, "labtop", "no profile 'labtop' .did you mean 'laptop'.*are laptop$"),
        ({}, "laptop", "no profile 'laptop'; it has no profiles"),
        ({"laptop": 3}, None, "profiles must hold, for each name, keys of the study"),
        (["laptop"], None, "profiles must hold, for each name, keys of the study"),
        ({"a": {"models.3.options": {}}}, "a", "profile 'a': models.3.options: '3' must be 0 to 0"),
        ({"a": {"name.x": 1}}, "a", "goes through 'name', not a mapping"),
        ({"a": {"data.trainsize": 1}}, "a", "data.trainsize: unknown key .did you mean"),
    ],
)
def test_a_wrong_profile_is_one_message(
    tmp_path: Path, profiles: Any, asked: str | None, message: str
) -> None:
    path = written(tmp_path, **STUDY, profiles=profiles)
    with pytest.raises(ConfigError, match=message):
        load_config(path, (), asked)


def test_a_file_over_a_base_replaces_keys_and_sets_values(tmp_path: Path) -> None:
    written(tmp_path, "below.yaml", **STUDY, profiles={"laptop": LAPTOP, "other": {"seed": 3}})
    path = written(
        tmp_path,
        base="below.yaml",
        name="above",
        models=[{"architecture": "lenet"}],
        set={"design.num_seeds": 2, "data.classes": [0, 1]},
        profiles={"laptop": {"models.0.options": {"width_factor": 0.5}, "design.num_seeds": 4}},
    )
    expected = {
        **STUDY,
        "name": "above",
        "models": [{"architecture": "lenet"}],
        "design": {**STUDY["design"], "num_seeds": 2},
        "data": {"classes": [0, 1]},
    }
    assert load_config(path) == parse_config(expected)
    assert load_config(path, (), "other").seed == 3
    with pytest.raises(ConfigError, match=r"models\.0\.options\.width"):
        # The base's profile still writes what it wrote there; another key takes its place.
        load_config(written(tmp_path, "no.yaml", base="below.yaml", models=3), (), "laptop")
    laptop = load_config(path, ("models.0.options={}",), "laptop")
    assert (laptop.design.num_seeds, laptop.data.train_size) == (4, 60)


def test_a_value_written_at_one_place_stays_there(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: x\nmodels:\n- {architecture: mlp, options: &o {width: 8}}\n"
        "- {architecture: mlp, family: b, options: *o}\n"
        "design: {kind: grid, learning_rate: [0.1], batch_size: [8]}\n"
    )
    study = load_config(path, ("models.0.options.width=4",))
    assert [model.options["width"] for model in study.models] == [4, 8]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base": "absent.yaml"}, "cannot read the study file .*absent.yaml"),
        ({"base": "study.yaml"}, "base names study.yaml, whose own base is this file"),
        ({"base": 3}, "base must be a study file; found 3"),
    ],
)
def test_a_wrong_base_is_one_message(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, **content))


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_each_study_of_the_paper_has_both_profiles(path: Path) -> None:
    sizes = {}
    for profile in ("laptop", "paper"):
        study = load_config(path, (), profile)
        assert study.name == path.stem
        assert study.data.path is None or not Path(study.data.path).is_absolute()
        sizes[profile] = len(plan(study))
    assert sizes["laptop"] <= sizes["paper"]


def test_a_table_has_nothing_to_plan(tmp_path: Path) -> None:
    content = {"name": "t", "table": {"path": "t.csv"}, "analysis": {"primary": ["a", "b"]}}
    path = written(tmp_path, **content, profiles={"log": {"analysis.log": ["a"]}})
    assert isinstance(load_study(path), TableStudy)
    logged = load_study(path, ("table.path=elsewhere.csv",), "log")
    assert logged.analysis.log == ("a",)
    # Where the table lies is no part of what is asked.
    assert logged.content_hash == load_study(path, (), "log").content_hash
    with pytest.raises(ConfigError, match="is the study of a table"):
        load_config(path)
    with pytest.raises(ConfigError, match="primary: required, but not given"):
        load_study(path, ("analysis={}",))
    with pytest.raises(ConfigError, match=r"table.pth: unknown key \(did you mean 'path'"):
        load_study(path, ("table.pth=x",))


def test_a_study_as_committed_is_as_accurate_as_by_default_and_only_profiles_are_quicker() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        study = load_study(path)
        options = {} if isinstance(study, TableStudy) else study.measurement.options
        assert options.get("jacobian", {}).get("tolerance", 0) <= Accuracy.tolerance, path
        assert all(own.get("precision", "float32") == "float32" for own in options.values()), path
    quick = load_config(ROOT / "configs" / "zoo_imagenet.yaml", (), "quick").measurement.options
    assert quick["jacobian"]["tolerance"] > Accuracy.tolerance
    assert quick["adaptive_sharpness"] == {"rho": 0.1, "precision": "bfloat16"}
