"""Stores with known content, written through the real records."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_study import NASTY_FAMILY, fill_store, make_study

from flatscale.report import ReportPaths, write_study_report


@pytest.fixture(scope="session")
def full_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five families, seven networks each and every way for a trial to end."""
    root = tmp_path_factory.mktemp("stores") / "full"
    fill_store(root, make_study(), seed=1)
    return root


@pytest.fixture(scope="session")
def full_report(full_store: Path, tmp_path_factory: pytest.TempPathFactory) -> ReportPaths:
    """The report of `full_store`, written once; tests only read it."""
    return write_study_report(full_store, out=tmp_path_factory.mktemp("reports") / "full")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which every trial failed or never ran."""
    root = tmp_path_factory.mktemp("stores") / "empty"
    fill_store(root, make_study(name="all-failed"), seed=1, everything_fails=True)
    return root


@pytest.fixture(scope="session")
def nasty_family() -> str:
    return NASTY_FAMILY
