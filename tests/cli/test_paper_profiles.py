"""The studies of the paper at its size: planned where the data are, else what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flatscale.cli.commands import app
from flatscale.study.reading import load_config

ROOT = Path(__file__).resolve().parents[2]
PAPER = sorted((ROOT / "configs" / "paper").glob("*.yaml"))
MISSING = {
    "parquet": "data: data.path data/cifar10 is not a folder",
    "fashion_mnist": "data: FashionMNIST cannot be read from data.path data/fashion_mnist",
}


def planned(path: Path, *arguments: str) -> str:
    given = ["plan", str(path), "--profile", "paper", *arguments]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_plan_says_which_data_are_missing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = load_config(path, (), "paper")
    said = planned(path)
    assert MISSING[study.data.source] in said
    assert "data.path" in said
    assert "0 done" in said


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_plan_finds_as_many_points_as_the_paper_has(
    path: Path, cifar10_folder: Path, tmp_path: Path
) -> None:
    study = load_config(path, (), "paper")
    if study.data.source != "parquet":
        pytest.skip("Fashion-MNIST is not beside the checkout")
    said = planned(path, "--set", f"data.path={cifar10_folder}", "--store", str(tmp_path / "store"))
    sizes = f"{study.data.train_size} training and {study.data.test_size} test points, 100 in"
    assert sizes in said
