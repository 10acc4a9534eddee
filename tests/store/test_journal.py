"""What a tracking server took: counted right whatever was torn, killed, or written long ago."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from flatscale.store.journal import Journal, num_waiting
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import record, study

URI = "http://127.0.0.1:5000"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare(study())
    for number, spec in enumerate(plan(study())):
        store.write(record(spec))
        # The order of the files' times is not that of their names.
        os.utime(store.record_file(spec.trial_id), ns=(number * 10**9, number * 10**9))
    return store


def opened(store: Store) -> Journal:
    journal = Journal(store, URI)
    journal.open()
    return journal


def ids() -> list[str]:
    return [spec.trial_id for spec in plan(study())]


def test_what_was_delivered_waits_no_more_and_the_rest_is_oldest_first(store: Store) -> None:
    journal = opened(store)
    assert journal.waiting() == ids()
    for trial_id in ids()[:5]:
        journal.add(trial_id, store.mark(trial_id))
    assert journal.waiting() == Journal(store, URI).waiting() == ids()[5:]
    assert num_waiting(store) == 7
    store.write(record(plan(study())[0], num_attempts=2))
    assert journal.waiting() == [*ids()[5:], ids()[0]]


def test_a_line_cut_short_is_delivered_again_and_hides_no_other(store: Store) -> None:
    journal = opened(store)
    for trial_id in ids()[:3]:
        journal.add(trial_id, store.mark(trial_id))
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[:-3])
    assert journal.waiting() == ids()[2:]
    journal.add(ids()[3], store.mark(ids()[3]))
    assert journal.waiting() == [ids()[2], *ids()[4:]]
    journal.path.write_bytes(whole[:5] + b"\xff\x00" + whole[7:])
    assert ids()[0] in journal.waiting()


def test_the_marks_of_an_older_store_count_and_are_carried_over_once(store: Store) -> None:
    folder = store.root / "tracking" / hashlib.sha256(URI.encode()).hexdigest()[:16]
    folder.mkdir(parents=True)
    for trial_id in ids()[:4]:
        stat = store.record_file(trial_id).stat()
        (folder / trial_id).write_text(f"{stat.st_mtime_ns}-{stat.st_size}")
    (folder / ids()[4]).write_text("1-1")
    assert num_waiting(store) == 8
    assert Journal(store, URI).waiting() == ids()[4:]
    journal = opened(store)
    assert journal.waiting() == ids()[4:]
    for mark in folder.iterdir():
        mark.unlink()
    assert opened(store).waiting() == ids()[4:]
    assert num_waiting(store) == 8


def test_the_server_used_last_is_the_one_that_is_counted(store: Store) -> None:
    assert num_waiting(store) == 0
    journal = opened(store)
    assert num_waiting(store) == 12
    for trial_id in ids():
        journal.add(trial_id, store.mark(trial_id))
    assert num_waiting(store) == 0
    os.utime(journal.path, ns=(1, 1))
    Journal(store, "http://other").open()
    assert num_waiting(store) == 12
    opened(store)
    assert num_waiting(store) == 0
