"""The study files that come with flatscale, and those that `flatscale init` writes from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flatscale.cli.commands import app
from flatscale.errors import ConfigError
from flatscale.study.bundled import bundled_studies, study_file, templates
from flatscale.study.reading import load_config, load_study, parse_config, parse_table_study
from flatscale.study.schema import json_schema
from flatscale.study.template import commented_study

TEMPLATES, STUDIES = templates(), bundled_studies()


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_the_same_study_commented_and_with_its_defaults(name: str) -> None:
    text = commented_study(TEMPLATES[name], "mine")
    whole = re.sub(r"^( *)#(?=\S)", r"\1", text, flags=re.MULTILINE)
    expected = load_study(STUDIES[name]).model_copy(update={"name": "mine"})
    for form in (text, whole):
        content = {key: part for key, part in yaml.safe_load(form).items() if key != "profiles"}
        parse = parse_table_study if "table" in content else parse_config
        assert parse(content) == expected
    # A zoo has no design; what flatscale writes itself is not offered.
    keys = set(type(expected).model_fields) - {"plugin_code", "profile"}
    assert {*content, "design"} == keys | {"design"}
    own = TEMPLATES[name].splitlines()
    prose = [line for line in text.splitlines() if line.lstrip().startswith("# ")]
    assert all(len(line) <= 98 for line in prose if line not in own)


def test_a_template_says_what_the_schema_says() -> None:
    text = commented_study(TEMPLATES["quickstart"], "mine")
    parts = json_schema()["$defs"]
    words = " ".join(re.sub(r"^ *#", "", text, flags=re.MULTILINE).split())
    for part in ("DataConfig", "TrainingConfig", "MeasurementConfig", "ResourcesConfig"):
        for key, about in parts[part]["properties"].items():
            if f"  {key}:" not in TEMPLATES["quickstart"] and part != "ResourcesConfig":
                assert " ".join(about["description"].split()) in words, key


def test_init_writes_lists_and_never_overwrites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["init"])
    assert done.exit_code == 0
    assert "flatscale run my_study.yaml" in done.output
    assert load_config("my_study.yaml").name == "my_study"
    assert runner.invoke(app, ["init", "arms", "--out", "of_arms.yaml"]).exit_code == 0
    assert load_config("of_arms.yaml").models == load_config("arms").models
    listed = runner.invoke(app, ["init", "--list"]).output
    assert [line.split()[0] for line in listed.splitlines()] == list(TEMPLATES)
    before = Path("my_study.yaml").read_bytes()
    for arguments, said in {
        ("arms",): "my_study.yaml exists and is not overwritten; give another --out",
        ("arm",): "no template is named 'arm'; these are: arms, ",
        ("arms", "--out", "a b.yaml"): "its name becomes the study's",
        ("arms", "--out", "nowhere/a.yaml"): "cannot write nowhere/a.yaml",
    }.items():
        error = runner.invoke(app, ["init", *arguments]).exception
        assert isinstance(error, ConfigError)
        assert said in str(error)
    assert Path("my_study.yaml").read_bytes() == before


def test_a_bundled_name_stands_for_its_file_where_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study_file("quickstart") == STUDIES["quickstart"]
    assert load_config("quickstart", ("seed=3",)).seed == 3
    (tmp_path / "quickstart").write_text("name: own\nmodels: [{architecture: mlp}]\n")
    assert study_file("quickstart") == Path("quickstart")
    with pytest.raises(ConfigError, match=r"no such file.*\(did you mean 'arms'\?\).*quickstart"):
        study_file("arm.yaml")
