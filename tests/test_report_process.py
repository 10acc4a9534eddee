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

# In place of the report: a line for each process that is ready, and for each that is told to begin.
INSTEAD = (
    "import sys; from pathlib import Path; store = Path(sys.argv[2]); "
    "say = lambda name, line: (store / name).open('a').write(line); "
    "say('ready', 'ready\\n'); told = sys.stdin.readline(); told and say('told', told); "
    "sys.exit({status})"
)


def told(store: Store, what: str = "told") -> int:
    path = store.root / what
    return len(path.read_text().split()) if path.exists() else 0


def wait_for(store: Store, what: str) -> None:
    deadline = time.monotonic() + 30
    while told(store, what) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
        wait_for(store, "ready")
        time.sleep(0.1)
        assert told(store) == 0
        reporter.ended(last)
        wait_for(store, "told")
        reporter.ended(last)
        assert reporter.write() == store.report_page
    assert told(store) == 2


def test_a_run_that_is_stopped_writes_none(store: Store) -> None:
    *others, _ = (record(spec) for spec in plan(study()))
    with pipeline._ReportProcess(store, plan(study())) as reporter:
        for one in others:
            reporter.ended(one)
        wait_for(store, "ready")
        time.sleep(0.1)  # in which one that was told would say so
    assert told(store) == 0


@pytest.mark.parametrize(("seconds", "expected"), [(0, 11), (3, 3), (60, 1)])
def test_it_is_started_as_far_ahead_of_the_last_record_as_it_takes_to_load(
    store: Store, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    specs = plan(study())
    with pipeline._ReportProcess(store, specs) as reporter:
        for done, spec in enumerate(specs, start=1):
            reporter._since = time.monotonic() - seconds * done
            reporter.ended(record(spec))
            if reporter._process is not None:
                break
    assert len(specs) - done == expected  # trials left, of 12


def test_one_that_cannot_be_written_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_WHEN_TOLD", INSTEAD.format(status="'error: no room'"))
    with (
        pipeline._ReportProcess(store, plan(study())) as reporter,
        pytest.raises(FlatscaleError, match="could not be written: no room"),
    ):
        reporter.write()
