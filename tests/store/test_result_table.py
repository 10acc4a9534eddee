"""A study's results as one file that names its study."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from flatscale.errors import StoreError
from flatscale.store.result_table import read_result_table, write_result_table
from flatscale.store.results import Store
from flatscale.study.plan import plan
from flatscale.study.reading import parse_config
from tests.records_by_hand import record, study


def test_a_table_comes_back_with_its_study(tmp_path: Path) -> None:
    config = study()
    store = Store(tmp_path / "store")
    store.prepare(config)
    for spec in plan(config):
        store.write(record(spec))
    results = store.read()
    write_result_table(results, tmp_path / "t.parquet")
    read = read_result_table(tmp_path / "t.parquet")
    assert (read.study, read.study_hash, read.profile) == (config.name, config.content_hash, None)
    whole = results.table()
    assert read.frame["trial_id"].to_list() == whole["trial_id"].to_list()
    assert read.frame["mls"].to_list() == whole["mls"].to_list()
    assert read.frame["stop"].to_list() == whole["stop"].to_list()
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    for name in ("other", "absent"):
        with pytest.raises(StoreError, match="is no table of a study's results"):
            read_result_table(tmp_path / f"{name}.parquet")


def test_of_a_zoo_names_and_published_results_are_kept(tmp_path: Path) -> None:
    weights = {"source": "none"}
    model = {"architecture": "mlp", "name": "one", "weights": weights, "outcomes": {"top1": 0.5}}
    config = parse_config(
        {
            "name": "zoo",
            "models": [model],
            "design": {"kind": "none"},
            "analysis": {"primary": ["mls", "sharpness"], "outcomes": ["top1"]},
        }
    )
    store = Store(tmp_path / "store")
    store.prepare(config)
    (spec,) = plan(config)
    store.write(record(spec, model="one", weights_hash="7", learning_rate=None))
    store.export(store.read())
    write_result_table(store.read(), tmp_path / "zoo.parquet")
    (row,) = read_result_table(tmp_path / "zoo.parquet").frame.iter_rows(named=True)
    assert (row["model"], row["top1"], row["weights_hash"], row["mls"]) == ("one", 0.5, "7", 101.0)
