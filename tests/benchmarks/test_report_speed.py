"""How long a report of a large study takes, statistics included: under 20 s for 500 x 30."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from flatscale.report import write_study_report


def _synthetic() -> Any:
    path = Path(__file__).parents[1] / "report" / "synthetic_study.py"
    spec = importlib.util.spec_from_file_location("synthetic_study", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["synthetic_study"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(600)
def test_report_of_500_trials_and_30_metrics(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    synthetic = _synthetic()
    study = synthetic.make_study(
        num_rates=10, num_batches=2, num_seeds=5, extra_metrics=18, num_resamples=2000
    )
    measured = len(study.measurement.metrics) - sum("bound" in m for m in study.measurement.metrics)
    assert measured == 30
    store = synthetic.fill_store(tmp_path / "store", study, seed=7)
    paths = benchmark.pedantic(write_study_report, args=(store,), rounds=1, iterations=1)
    print(f"\n{len(store.statuses())} trials, {measured} metrics: {benchmark.stats['mean']:.1f} s")
    print(f"page {paths.page.stat().st_size / 1e6:.1f} MB, {len(paths.files)} files")
