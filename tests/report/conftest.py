"""Stores with known content, written through the real records."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_study import NASTY_FAMILY, fill_store, make_study

from flatscale.report import ReportPaths


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder of this run of the tests, the same for all its processes."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture
def figures_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paper's figures are specified, and not drawn: `test_charts` draws and looks at them."""
    monkeypatch.setattr("flatscale.report.charts.draw._svg", lambda *_: "<svg/>")
    monkeypatch.setattr("flatscale.report.charts.draw._pdf", lambda _: b"")


@pytest.fixture
def figures_drawn(figures_undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are drawn after all, in a test of a file where others do without."""
    monkeypatch.undo()


@pytest.fixture(scope="session")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five families, seven networks each and every way for a trial to end."""
    root = tmp_path_factory.mktemp("stores") / "full"
    fill_store(root, make_study(), seed=1)
    return root


@pytest.fixture(scope="session")
def report_process(full_store: Path, shared_folder: Path) -> tuple[ReportPaths, list[str]]:
    """The report of `full_store`, written by a process of its own, and what that imported.

    Once for all processes of the tests, whose stores are alike.
    """
    program = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path; "
        "from flatscale.report import write_study_report; "
        "paths = write_study_report(sys.argv[1], out=Path(sys.argv[2])); "
        "print(json.dumps([asdict(paths), sorted(sys.modules)], default=str))"
    )
    said = shared_folder / "full_report.json"
    with said.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            ended = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    program,
                    str(full_store),
                    str(shared_folder / "full_report"),
                ],
                capture_output=True,
                text=True,
                check=False,
                cwd=Path(__file__).parents[2],
            )
            assert ended.returncode == 0, ended.stderr
            said.write_text(ended.stdout)
    paths, modules = json.loads(said.read_text())
    files = tuple(map(Path, paths.pop("files")))
    return ReportPaths(files=files, **{name: Path(path) for name, path in paths.items()}), modules


@pytest.fixture(scope="session")
def full_report(report_process: tuple[ReportPaths, list[str]]) -> ReportPaths:
    """The report of `full_store`, written once; tests only read it."""
    return report_process[0]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which every trial failed or never ran."""
    root = tmp_path_factory.mktemp("stores") / "empty"
    fill_store(root, make_study(name="all-failed"), seed=1, everything_fails=True)
    return root


@pytest.fixture(scope="session")
def nasty_family() -> str:
    return NASTY_FAMILY
