"""The wheel: what someone has who never saw the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

from flatscale import __version__
from flatscale.study.bundled import templates

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    ("data", "{source: digits, classes: [3, 8], train_size: 40, test_size: 20}"),
    ("models", "[{architecture: mlp, options: {width: 8}}]"),
    ("design", "{kind: grid, learning_rate: [0.1, 0.2], batch_size: [8]}"),
    ("training.max_steps", "20"),
    ("measurement", "{probe_size: 4, metrics: [sharpness, mls, test_accuracy]}"),
    ("analysis.outcomes", "[test_accuracy]"),
    ("analysis.num_resamples", "100"),
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("flatscale-*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_studies_and_types(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "flatscale", "configs"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    expected = {name if name.startswith("flatscale/") else f"flatscale/{name}" for name in tracked}
    assert "flatscale/configs/quickstart.yaml" in expected
    assert "flatscale/py.typed" in expected
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_a_first_hour_with_the_wheel(wheel: Path, tmp_path: Path) -> None:
    home, installed = tmp_path / "home", tmp_path / "installed"
    home.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, "--target", str(installed), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def python(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=home, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def flatscale(*arguments: str) -> str:
        return python("-m", "flatscale", *arguments)

    where = "import flatscale; print(flatscale.__file__, *dir(flatscale))"
    file, *names = python("-c", where).split()
    assert Path(file).is_relative_to(installed)
    assert {"measure", "analyze", "load_results", "load_network"} <= set(names)
    code = (
        "import torch, flatscale; "
        "m = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)); "
        "r = flatscale.measure(m, (torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]))); "
        "print(r['mls'].value)"
    )
    assert float(python("-c", code)) > 0
    assert flatscale("--version").strip() == __version__
    assert [line.split()[0] for line in flatscale("init", "--list").splitlines()] == [*templates()]
    flatscale("init", "--out", "mine.yaml")
    assert "72 trials" in " ".join(flatscale("plan", "mine.yaml").split())
    overrides = [part for key, value in TINY for part in ("--set", f"{key}={value}")]
    flatscale("run", "quickstart", *overrides)
    table = pl.read_parquet(home / "runs" / "quickstart" / "table.parquet")
    assert table["mls"].null_count() == 0
    assert (home / "runs" / "quickstart" / "report" / "report.html").is_file()
