"""What is an inequality is declared; a metric is not left out for the sound of its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flatscale.measurement import Measurement
from flatscale.report.content.from_store import content_of_store
from flatscale.store.records import Snapshot
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import record, study

METRICS = ["mls", "sharpness", "pac_bayes_bound", "my_bound", "bound_a", "my_inequality"]
OLD = {"group": "complexity", "unit": "1", "passes": ["loss"]}
BOUND = {**OLD, "group": "bound"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    config = study(
        num_seeds=3,
        measurement={"metrics": METRICS},
        analysis={"primary": ["sharpness", "mls"], "num_resamples": 100},
    )
    store = Store(tmp_path)
    store.prepare(config)
    for number, spec in enumerate(plan(config)):
        values = {name: 1.0 + k + (number * (k + 3)) % 7 for k, name in enumerate(METRICS)}
        measurements = tuple(Measurement(name=n, value=v) for n, v in values.items())
        snapshot = Snapshot(step=9, is_final=True, probe_hash="p", measurements=measurements)
        store.write(record(spec, snapshots=(snapshot,)))
    return store


def glossary(store: Store, **entries: dict[str, Any]) -> None:
    known = dict.fromkeys(METRICS, OLD) | entries
    store.glossary.write_text(json.dumps([{"name": n, **entry} for n, entry in known.items()]))


def correlated(store: Store) -> set[str]:
    content = content_of_store(store)
    assert content.analysis is not None, content.problem
    tables = content.analysis.frames
    names = {*tables["matrix"]["x"], *tables["matrix"]["y"]}
    assert names == {*tables["reliability"]["metric"]} == {*content.metrics}
    return names


def test_a_declared_inequality_is_left_out_and_nothing_else(store: Store) -> None:
    declared = {name: {**OLD, "bounds": None} for name in METRICS}
    declared["bound_a"] = {**BOUND, "bounds": "mls"}
    declared["my_inequality"] = {**OLD, "bounds": "sharpness"}
    # A group is a heading of the catalog; it says nothing of what is bounded.
    declared["my_bound"] = {**BOUND, "bounds": None}
    glossary(store, **declared)
    assert correlated(store) == {"mls", "sharpness", "pac_bayes_bound", "my_bound"}
    bounds = content_of_store(store).bounds
    assert set(bounds["bound"]) == {"bound_a", "my_inequality"}
    assert bounds["log10_ratio"].null_count() == 0


def test_the_group_decides_where_an_older_version_wrote_the_glossary(store: Store) -> None:
    glossary(store, bound_a=BOUND)
    assert correlated(store) == {*METRICS} - {"bound_a"}


def test_the_known_inequalities_are_left_out_where_there_is_no_glossary(store: Store) -> None:
    assert correlated(store) == {*METRICS} - {"bound_a"}
