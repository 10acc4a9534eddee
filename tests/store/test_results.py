"""The store keeps what it was given, whole, and names what is damaged."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatscale.errors import StoreError
from flatscale.measurement import Measurement
from flatscale.pipeline import run_study
from flatscale.store.atomic import write_atomically
from flatscale.store.records import FAILED, MEASUREMENT_SCHEMA, TRIAL_SCHEMA, Snapshot
from flatscale.store.results import Store, load_results
from flatscale.study.plan import plan
from tests.records_by_hand import record, study


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare(study())
    return store


def test_what_is_written_is_read_back_in_the_order_asked(store: Store) -> None:
    specs = plan(study())
    for spec in specs:
        store.write(record(spec))
    wanted = [spec.trial_id for spec in reversed(specs)][:5]
    results = store.read(wanted)
    assert results.trials["trial_id"].to_list() == wanted
    assert results.trials.columns == list(TRIAL_SCHEMA)
    assert results.measurements.columns == ["trial_id", *MEASUREMENT_SCHEMA]
    assert results.measurements.height == 5 * 2 * 2
    assert results.history.height == 5 * 2
    row = results.measurements.row(0, named=True)
    assert row["layers"] == [{"layer": "0", "value": 1.0}, {"layer": "2", "value": 2.0}]
    assert row["extras"] == [{"name": "slack", "values": [0.1, 0.2]}]


def test_the_table_has_one_row_a_trial_and_final_values_only(store: Store) -> None:
    specs = plan(study())
    store.write(record(specs[0]))
    store.write(record(specs[1], status=FAILED, reason="worker died", snapshots=(), history=()))
    table = load_results(store.root).table()
    assert table.height == 2
    rows = {row["trial_id"]: row for row in table.iter_rows(named=True)}
    finished, failed = rows[specs[0].trial_id], rows[specs[1].trial_id]
    assert finished["mls"] == 1.0 + specs[0].seed_index + 100
    assert finished["mls__std_error"] == 0.5
    assert finished["mls__converged"] is True
    assert failed["mls"] is None
    assert failed["reason"] == "worker died"


def test_after_a_metric_is_added_every_network_stands_in_the_table_once(tmp_path: Path) -> None:
    before = study(measurement={"metrics": ["mls"]})
    after = study(measurement={"metrics": ["mls", "sharpness"]}, num_seeds=2)
    store = Store(tmp_path / "store")
    for config in (before, after):
        store.prepare(config)
        for spec in plan(config):
            store.write(record(spec, network_id=spec.network_id))
    results = load_results(store.root)
    current = [spec.trial_id for spec in plan(after)]
    table = results.table()
    assert sorted(table["trial_id"]) == sorted(current)
    assert not table["network_id"].is_duplicated().any()
    everything = results.table(all=True)
    assert everything.height == results.trials.height == len(plan(before)) + len(current)
    assert everything["mls"].null_count() == 0
    assert everything.filter(pl.col("left_out").is_null()).drop("left_out").equals(table)
    reasons = dict(everything.select("trial_id", "left_out").iter_rows())
    again = {spec.network_id: spec.trial_id for spec in plan(after)}
    for spec in plan(before):
        words = again.get(spec.network_id, "no such network any more")
        assert words in reasons[spec.trial_id]
    store.export(results)
    assert pl.read_parquet(store.table_file).equals(table)


def test_an_empty_store_reads_as_empty_tables(store: Store) -> None:
    results = store.read()
    assert results.table().height == 0
    assert store.statuses() == {}


def test_a_metric_without_a_value_keeps_its_reason(store: Store) -> None:
    spec = plan(study())[0]
    snapshot = Snapshot(
        step=1,
        is_final=True,
        probe_hash="p",
        measurements=(Measurement.failed("relative_flatness", "no linear layer"),),
    )
    store.write(record(spec, snapshots=(snapshot,)))
    row = store.read().measurements.row(0, named=True)
    assert (row["value"], row["converged"], row["reason"]) == (None, False, "no linear layer")


def test_writing_again_replaces(store: Store) -> None:
    spec = plan(study())[0]
    store.write(record(spec, status=FAILED, reason="first"))
    store.write(record(spec))
    assert store.statuses() == {spec.trial_id: "finished"}


def test_a_damaged_record_is_named(store: Store) -> None:
    specs = plan(study())
    for spec in specs[:3]:
        store.write(record(spec))
    path = store.records / f"{specs[1].trial_id}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=specs[1].trial_id):
        store.read()
    with pytest.raises(StoreError, match=specs[1].trial_id):
        store.statuses()


def test_a_record_under_another_name_is_refused(store: Store) -> None:
    specs = plan(study())
    store.write(record(specs[0]))
    path = store.records / f"{specs[0].trial_id}.parquet"
    path.rename(store.records / f"{specs[1].trial_id}.parquet")
    with pytest.raises(StoreError, match="named after"):
        store.read_record(specs[1].trial_id)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_no_bytes_get_past_the_reader_except_as_a_named_fault(
    store: Store, data: st.DataObject
) -> None:
    spec = plan(study())[0]
    store.write(record(spec))
    path = store.records / f"{spec.trial_id}.parquet"
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    content = whole[:start] + data.draw(st.binary(max_size=50))
    path.write_bytes(content)
    if content != whole:
        with pytest.raises(StoreError, match=spec.trial_id):
            store.read()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_changed_bytes_give_a_named_fault_and_spoil_no_other_record(
    store: Store, data: st.DataObject
) -> None:
    first, second = plan(study())[:2]
    store.write(record(first))
    store.write(record(second))
    path = store.records / f"{first.trial_id}.parquet"
    whole = path.read_bytes()
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    readers = (store.read, store.statuses, store.endings, store.dataset_hashes)
    for read in (*readers, lambda: store.read().table()):
        if content == whole:
            read()
        else:
            with pytest.raises(StoreError, match=first.trial_id):
                read()
    assert store.read_record(second.trial_id)["status"] == "finished"
    # A record that is written again is whole again.
    store.write(record(first))
    assert store.read().trials.height == 2


def test_a_record_is_whole_with_either_of_the_sums_that_a_killed_writer_leaves(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = plan(study())[:2]
    store.write(record(first))
    with monkeypatch.context() as patch:
        patch.setattr(
            "flatscale.store.results.write_atomically", lambda *_: (_ for _ in ()).throw(OSError)
        )
        with pytest.raises(StoreError, match="cannot write the record"):
            store.write(record(first, num_attempts=2))
        with pytest.raises(StoreError, match="cannot write the record"):
            store.write(record(second))
    assert store.read().trials["num_attempts"].to_list() == [1]
    store.write(record(first, num_attempts=2))
    assert store.read().trials["num_attempts"].to_list() == [2]


def test_records_without_checksums_are_read_and_a_torn_line_hides_none(store: Store) -> None:
    first, second = plan(study())[:2]
    store.write(record(first))
    sums = store.root / "records.sha256"
    sums.write_bytes(sums.read_bytes()[:30])
    store.write(record(second))
    path = store.records / f"{second.trial_id}.parquet"
    assert hashlib.sha256(path.read_bytes()).hexdigest() in sums.read_text()
    assert store.read().trials.height == 2
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(StoreError, match=second.trial_id):
        store.statuses()


def test_a_store_learns_what_another_process_writes(store: Store) -> None:
    first, second = plan(study())[:2]
    reader = Store(store.root)
    store.write(record(first))
    assert reader.read().trials.height == 1
    store.write(record(second))
    assert reader.read().trials.height == 2
    store.write(record(first, num_attempts=3))
    assert reader.read_record(first.trial_id)["num_attempts"] == 3
    path = store.records / f"{second.trial_id}.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"2")
    with pytest.raises(StoreError, match=second.trial_id):
        reader.statuses()


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"study\.yaml"):
        load_results(tmp_path)


def test_another_study_does_not_get_into_a_store(store: Store) -> None:
    with pytest.raises(StoreError, match="Choose another --store"):
        store.prepare(study(seed=7))
    store.prepare(study(num_seeds=9))


def test_a_read_only_store_is_a_clear_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("flatscale.store.atomic.tempfile.mkstemp", refuse)
    with pytest.raises(StoreError, match="Read-only file system"):
        store.write(record(plan(study())[0]))


def test_two_drivers_cannot_hold_a_store(store: Store) -> None:
    with store.locked(), pytest.raises(StoreError, match="another run"), store.locked():
        pass
    with store.locked():
        pass


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(store: Store) -> None:
    store.write(record(plan(study())[0]))
    kept = {path for path in store.root.rglob("*") if path.is_file()}
    of_a_report = store.report / ".tmp-now"
    weights = store.checkpoints / "network"
    weights.mkdir()
    for folder in (store.root, store.records, weights):
        (folder / ".tmp-then").write_bytes(b"half a")
    of_a_report.write_bytes(b"half a")
    store.remove_leftovers()
    assert {path for path in store.root.rglob("*") if path.is_file()} == {*kept, of_a_report}


def test_a_store_has_an_id_that_stays(store: Store) -> None:
    before = store.store_id()
    store.prepare(study(num_seeds=5))
    assert store.store_id() == before
    assert len(before) == 32


def _write_forever(root: str) -> None:
    store = Store(root)
    specs = plan(study())
    while True:
        for spec in specs:
            store.write(record(spec))


def test_a_writer_killed_at_any_moment_leaves_whole_records(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    for round_ in range(4):
        process = context.Process(target=_write_forever, args=(str(store.root),))
        process.start()
        while not store.statuses():
            time.sleep(0.01)
        time.sleep(0.05 + 0.03 * round_)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        results = store.read()
        assert results.measurements.height == 4 * results.trials.height > 0


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flatscale.store.atomic.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_export_writes_both_flat_tables(store: Store) -> None:
    for spec in plan(study()):
        store.write(record(spec))
    results = store.read()
    store.export(results)
    assert pl.read_parquet(store.root / "trials.parquet").equals(results.trials)
    assert pl.read_parquet(store.root / "measurements.parquet").equals(results.measurements)


def test_a_measurement_without_value_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="no reason"):
        Measurement(name="mls", value=None)
    with pytest.raises(ValueError, match="without a reason"):
        Measurement(name="mls", value=float("inf"))
    spec = plan(study())[0]
    assert replace(record(spec), reason="x").row()["reason"] == "x"


def test_a_record_is_read_again_by_the_same_process_only_when_its_file_has_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    sound = Path.read_bytes

    def counting(path: Path) -> bytes:
        read.append(path.stem)
        return sound(path)

    specs = plan(study())
    for spec in specs:
        store.write(record(spec))
        os.utime(store.record_file(spec.trial_id), (1e9, 1e9))
    monkeypatch.setattr(Path, "read_bytes", counting)
    before = store.statuses()
    assert len(read) == 12
    assert store.statuses() == before
    assert len(read) == 12
    # A file may change twice within one tick of the clock: what is fresh is not trusted.
    store.write(record(specs[0], status=FAILED, reason="x"))
    for _ in range(2):
        assert store.statuses() == {**before, specs[0].trial_id: FAILED}
    assert read[12:] == [specs[0].trial_id] * 2
    store.record_file(specs[1].trial_id).unlink()
    assert specs[1].trial_id not in store.statuses()
    path = store.record_file(specs[2].trial_id)
    path.write_bytes(sound(path)[:-1] + b"2")
    with pytest.raises(StoreError, match=specs[2].trial_id):
        store.statuses()
    before_anew = len(read)
    assert before_anew < 20
    with pytest.raises(StoreError, match=specs[2].trial_id):
        Store(store.root).statuses()
    assert len(read) == before_anew + 11


def test_listeners_hear_of_every_record_that_is_on_the_disk(store: Store) -> None:
    heard: list[str] = []
    store.listeners.append(lambda trial_id: heard.append(store.read_record(trial_id)["trial_id"]))
    for spec in plan(study())[:3]:
        store.write(record(spec))
    assert heard == [spec.trial_id for spec in plan(study())[:3]]


def test_a_run_that_is_refused_changes_nothing_of_the_study_that_runs(tmp_path: Path) -> None:
    running = study()
    store = Store(tmp_path)
    store.prepare(running)
    before = store.study_file.read_bytes()
    analysis = running.analysis.model_copy(update={"primary": ("learning_rate", "mls")})
    intruder = running.model_copy(update={"analysis": analysis})
    with store.locked():
        assert Store(tmp_path).is_locked()
        with pytest.raises(StoreError, match="another run is writing"):
            run_study(intruder, plan(intruder), Store(tmp_path))
    assert store.study_file.read_bytes() == before
    assert not Store(tmp_path).is_locked()
