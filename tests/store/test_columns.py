"""A record's columns are declared once, and records outlive the columns of the day they were made.

`OLD` is the schema of the first stores, written out by hand: it must not follow the code.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import polars as pl
import pytest

from flatscale.errors import StoreError
from flatscale.store.records import (
    COLUMNS,
    HYPERPARAMETER,
    RECORD_SCHEMA,
    TRIAL_SCHEMA,
    TrialRecord,
    columns_for,
)
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import record, study

NUMBERS = pl.List(pl.Struct({"name": pl.String, "values": pl.List(pl.Float64)}))
LAYERS = pl.List(pl.Struct({"layer": pl.String, "value": pl.Float64}))
MEASUREMENT = {
    "step": pl.Int64,
    "is_final": pl.Boolean,
    "metric": pl.String,
    "value": pl.Float64,
    "std_error": pl.Float64,
    "converged": pl.Boolean,
    "num_evaluations": pl.Int64,
    "num_points": pl.Int64,
    "probe_hash": pl.String,
    "reason": pl.String,
    "layers": LAYERS,
    "extras": NUMBERS,
}
OLD = {
    **dict.fromkeys(
        ("trial_id", "network_id", "family", "architecture", "options", "dataset", "dataset_hash"),
        pl.String,
    ),
    "num_classes": pl.Int64,
    "train_size": pl.Int64,
    "labels_changed": pl.Int64,
    "optimizer": pl.String,
    "momentum": pl.Float64,
    "weight_decay": pl.Float64,
    "loss": pl.String,
    "learning_rate": pl.Float64,
    **dict.fromkeys(("batch_size", "seed_index", "num_parameters"), pl.Int64),
    **dict.fromkeys(("status", "stop", "reason"), pl.String),
    **dict.fromkeys(("num_steps", "num_attempts"), pl.Int64),
    **dict.fromkeys(("train_seconds", "measure_seconds"), pl.Float64),
    **dict.fromkeys(("started_at", "finished_at"), pl.Datetime("us", "UTC")),
    **dict.fromkeys(("device", "versions"), pl.String),
    "measurements": pl.List(pl.Struct(MEASUREMENT)),
    "history": pl.List(pl.Struct({"step": pl.Int64, "train_loss": pl.Float64})),
}


@pytest.fixture
def store(tmp_path: Any) -> Store:
    store = Store(tmp_path / "store")
    store.prepare(study())
    return store


def write_old(store: Store, trial_id: str, without: str | None = None, **added: Any) -> None:
    row = record(plan(study())[0], trial_id=trial_id).row()
    old = {name: row[name] for name in OLD if name != without}
    schema = {name: OLD[name] for name in old} | dict.fromkeys(added, pl.String)
    frame = pl.DataFrame([{**old, **added}], schema=schema)
    frame.write_parquet(store.record_file(trial_id))


def test_records_of_an_older_version_are_read_with_null_for_what_came_later(store: Store) -> None:
    spec = plan(study())[1]
    write_old(store, "old")
    store.write(record(spec, optimizer_options='{"betas": [0.9, 0.99]}'))
    trials = {row["trial_id"]: row for row in store.read().trials.iter_rows(named=True)}
    assert trials["old"]["optimizer_options"] is None
    assert trials["old"]["learning_rate"] == 0.1
    assert trials[spec.trial_id]["optimizer_options"] == '{"betas": [0.9, 0.99]}'
    assert store.read_record("old")["optimizer_options"] is None
    assert store.read().measurements.height == 8
    assert store.statuses() == {"old": "finished", spec.trial_id: "finished"}


def test_what_a_newer_version_added_is_left_out(store: Store) -> None:
    write_old(store, "newer", invented_later="x")
    assert store.read().trials.columns == list(TRIAL_SCHEMA)
    assert store.read_record("newer")["status"] == "finished"


def test_what_no_record_ever_lacked_must_be_there(store: Store) -> None:
    write_old(store, "foreign", without="status")
    for read in (store.statuses, store.read, lambda: store.read_record("foreign")):
        with pytest.raises(StoreError, match="foreign"):
            read()


def test_the_files_are_as_they_were_but_for_columns_that_were_added(store: Store) -> None:
    spec = plan(study())[0]
    store.write(record(spec))
    written = dict(pl.read_parquet_schema(store.record_file(spec.trial_id)))
    added = ("optimizer_options", "plugin_code", "axes", "model", "weights_tag", "weights_hash")
    for name in (*added, "value_ids", "taken_over"):
        assert written.pop(name) == pl.String
    assert written.pop("peak_memory_bytes") == pl.Int64
    assert written == OLD
    assert list(written) == list(OLD)


def test_the_schema_follows_from_the_declaration() -> None:
    declared = [f.name for f in fields(TrialRecord) if f.name not in ("snapshots", "history")]
    assert [column.name for column in COLUMNS] == declared == list(TRIAL_SCHEMA)
    assert list(RECORD_SCHEMA) == [*declared, "measurements", "history"]
    assert all(column.meaning for column in COLUMNS)
    assert columns_for(HYPERPARAMETER) == ("learning_rate", "batch_size", "seed_index")


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("learning_rate", "0.1", "learning_rate .* must be of type real but is '0.1'"),
        ("family", None, "family .* must be of type str but is None"),
        ("num_steps", 1.5, "num_steps .* must be of type integral but is 1.5"),
        ("started_at", "today", "started_at .* must be of type datetime"),
        ("status", "done", "unknown status 'done'"),
    ],
)
def test_a_record_with_a_wrong_column_is_refused(column: str, value: Any, words: str) -> None:
    whole = record(plan(study())[0])
    with pytest.raises(ValueError, match=words):
        replace(whole, **{column: value})
