"""A study's results as one file that names its study."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from flatscale.errors import StoreError
from flatscale.store.result_table import read_result_table, write_result_table
from flatscale.store.results import Store
from flatscale.study.plan import plan
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
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    for name in ("other", "absent"):
        with pytest.raises(StoreError, match="is no table of a study's results"):
            read_result_table(tmp_path / f"{name}.parquet")
