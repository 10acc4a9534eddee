"""The main path before the first trial: what is read while Ray starts, and what is said first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flatscale import pipeline
from flatscale.cluster import launch
from flatscale.errors import DataError, FlatscaleError
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import study


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In place of Ray: what was connected and closed."""
    heard: list[str] = []

    @contextmanager
    def connected(*_: object) -> Iterator[None]:
        heard.append("connected")
        yield
        heard.append("closed")

    monkeypatch.setattr(launch, "_connected", connected)
    return heard


def refuse(*_: object) -> None:
    raise DataError("no such folder")


def test_data_are_read_while_ray_starts_and_what_cannot_be_run_leaves_nothing_behind(
    connections: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=20)  # passed only if the two are under way at once
    start = pipeline.RaySession.__enter__

    def met(session: pipeline.RaySession) -> pipeline.RaySession:
        both.wait()
        return start(session)

    def read(*_: object) -> None:
        both.wait()
        refuse()

    monkeypatch.setattr(pipeline.RaySession, "__enter__", met)
    monkeypatch.setattr(pipeline, "study_points", read)
    with pytest.raises(DataError, match="no such folder"):
        pipeline.run_study(study(), plan(study()), Store(tmp_path / "store"))
    assert connections == ["connected", "closed"]
    assert not (tmp_path / "store").exists()


def test_what_is_wrong_with_the_study_is_said_before_what_is_wrong_with_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise FlatscaleError("cannot reach Ray")

    monkeypatch.setattr(launch, "_connected", refused)
    monkeypatch.setattr(pipeline, "study_points", lambda *_: {})
    with pytest.raises(FlatscaleError, match="cannot reach Ray"):
        pipeline.run_study(study(), plan(study()), Store(tmp_path / "store"))
    monkeypatch.setattr(pipeline, "study_points", refuse)
    with pytest.raises(DataError, match="no such folder"):
        pipeline.run_study(study(), plan(study()), Store(tmp_path / "store"))


def test_a_session_is_entered_and_closed_once(connections: list[str]) -> None:
    with pipeline.RaySession(study()) as early, early:
        assert connections == ["connected"]
    assert connections == ["connected", "closed"]
