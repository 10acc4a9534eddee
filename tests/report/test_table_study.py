"""A study file of a table: the same report as the command line's options give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from flatscale.cli.commands import app
from flatscale.errors import StatsError
from flatscale.study.reading import load_study

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = sorted((ROOT / "configs" / "published").glob("*.yaml"))

pytestmark = pytest.mark.usefixtures("figures_undrawn")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    table = pl.DataFrame(
        {
            "model": [f"{'abcdef'[k % 6]}{k}" for k in range(60)],
            "kept": ["yes"] * 54 + ["no"] * 6,
            "x": np.exp(x),
            "y": x + rng.normal(size=60) / 2,
            "se": np.full(60, 0.1),
            "extra": rng.normal(size=60),
        }
    )
    table.write_csv(tmp_path / "table.csv")
    scores = table.select("model", score=pl.col("y") * 2, other=pl.col("extra"))
    scores.write_csv(tmp_path / "scores.csv")
    return tmp_path


def run(folder: Path, *command: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*command], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((folder / "findings.json").read_text())


def test_a_file_and_the_options_give_one_report(files: Path) -> None:
    study = {
        "name": "table",
        "table": {
            "path": str(files / "table.csv"),
            "family_from": "model",
            "std_errors": {"y": "se"},
            "joined": {"path": str(files / "scores.csv"), "by": ["model"]},
        },
        "analysis": {"primary": ["x", "y"], "log": ["x"], "outcomes": ["score"]},
    }
    config = files / "study.yaml"
    config.write_text(yaml.safe_dump(study))
    by_file = run(files / "a", "run", str(config), "--store", str(files / "a"))
    by_options = run(
        files / "b",
        *("analyze", str(files / "table.csv"), "--x", "x", "--y", "y", "--log", "x"),
        *("--family-from", "model", "--se-y", "se", "--outcomes", str(files / "scores.csv")),
        *("--on", "model", "--outcome", "score", "--out", str(files / "b")),
    )
    assert by_file == by_options
    read = load_study(config)
    assert read.content_hash in json.dumps(by_file)


def test_rows_and_columns_are_chosen_and_the_others_counted(files: Path) -> None:
    study = {
        "name": "chosen",
        "description": "Do they go together?",
        "table": {
            "path": str(files / "table.csv"),
            "family_from": "model",
            "columns": ["extra"],
            "where": {"kept": ["yes"]},
        },
        "analysis": {"primary": ["x", "y"], "log": ["x"], "num_resamples": 100},
    }
    config = files / "study.yaml"
    config.write_text(yaml.safe_dump(study))
    document = run(files / "a", "run", str(config), "--store", str(files / "a"))
    pairs = {frozenset((r["x"], r["y"])) for r in document["tables"]["findings"]}
    assert {frozenset(("x", "extra")), frozenset(("y", "extra"))} <= pairs
    assert "6 of 60 rows have no yes in 'kept': left out." in document["notes"]
    wrong = {"table.where={kept: [maybe]}": "no row has maybe", "table.where={z: [1]}": "'z'"}
    wrong["table.std_errors={extra: se}"] = "'extra' is not of the primary pair"
    for override, message in wrong.items():
        command = ["run", str(config), "--set", override, "--store", str(files / "b")]
        with pytest.raises(StatsError, match=message):
            CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_the_audits_name_no_machine(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem
    assert study.description.endswith("?")
    assert not Path(study.table.path).is_absolute()
