"""The process that writes a run's report: when it is told to begin, and what a late record does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from flatscale import pipeline
from flatscale.errors import FlatscaleError
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import record, study

# In place of the report: a line for each process that was told to begin.
INSTEAD = (
    "import sys; from pathlib import Path; told = sys.stdin.readline(); "
    "told and (Path(sys.argv[2]) / 'told').open('a').write(told); sys.exit({status})"
)


def told(store: Store) -> int:
    path = store.root / "told"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(pipeline, "_WHEN_TOLD", INSTEAD.format(status=0))
    store = Store(tmp_path / "store")
    store.prepare(study())
    return store


def test_it_begins_with_the_last_record_and_again_with_one_that_comes_late(store: Store) -> None:
    *others, last = (record(spec) for spec in plan(study()))
    with pipeline._ReportProcess(store, plan(study())) as reporter:
        for one in others:
            reporter.ended(one)
        time.sleep(0.3)
        assert told(store) == 0
        reporter.ended(last)
        deadline = time.monotonic() + 30
        while told(store) < 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        reporter.ended(last)
        assert reporter.write() == store.report_page
    assert told(store) == 2


def test_a_run_that_is_stopped_writes_none(store: Store) -> None:
    *others, _ = (record(spec) for spec in plan(study()))
    with pipeline._ReportProcess(store, plan(study())) as reporter:
        for one in others:
            reporter.ended(one)
    assert told(store) == 0


def test_one_that_cannot_be_written_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_WHEN_TOLD", INSTEAD.format(status="'error: no room'"))
    with (
        pipeline._ReportProcess(store, plan(study())) as reporter,
        pytest.raises(FlatscaleError, match="could not be written: no room"),
    ):
        reporter.write()
