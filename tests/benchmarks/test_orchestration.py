"""What a trial costs beyond its own training and measuring: Ray, store, MLflow, statistics, report.

Every trial takes one optimizer step and one cheap metric. The cost is the command's whole wall
time, start-up and report included, minus the trials' own seconds divided by the trials that ran at
a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

from flatscale.results import load_results

NUM_TRIALS = 200
STUDY = {
    "name": "trivial",
    "data": {"source": "digits", "train_size": 20, "test_size": 20},
    "models": [{"architecture": "mlp", "options": {"width": 4}}],
    "design": {
        "kind": "grid",
        "learning_rate": [0.1, 0.2],
        "batch_size": [20],
        "num_seeds": NUM_TRIALS // 2,
    },
    "training": {"max_steps": 1},
    "measurement": {"probe_size": 10, "metrics": ["train_loss"]},
    "analysis": {"primary": ["learning_rate", "train_loss"], "outcomes": ["train_loss"]},
}


def run(config: Path, store: Path) -> float:
    command = [sys.executable, "-m", "flatscale", "run", str(config), "--store", str(store)]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


@pytest.mark.benchmark(group="orchestration")
def test_cost_of_a_trial_over_its_own_work(benchmark, tmp_path: Path) -> None:
    config = tmp_path / "trivial.yaml"
    config.write_text(yaml.safe_dump(STUDY))
    store = tmp_path / "store"
    wall = benchmark.pedantic(run, args=(config, store), rounds=1)
    trials = load_results(store).trials
    assert (trials["status"] == "finished").sum() == NUM_TRIALS
    own = trials.select(pl.col("train_seconds") + pl.col("measure_seconds")).sum().item()
    at_a_time = min(NUM_TRIALS, os.cpu_count() or 1)
    first, last = trials["started_at"].min(), trials["finished_at"].max()
    steady = (last - first).total_seconds()
    whole_cost = (wall - own / at_a_time) / NUM_TRIALS
    steady_cost = (steady - own / at_a_time) / NUM_TRIALS
    benchmark.extra_info.update(whole_cost=whole_cost, steady_cost=steady_cost)
    print(
        f"\n{NUM_TRIALS} trivial trials: wall {wall:.1f} s, own work {own:.1f} s on {at_a_time} "
        f"CPUs; "
        f"cost {whole_cost:.3f} s a trial with start-up and report, "
        f"{steady_cost:.3f} s between the first start and the last end (at most 0.3 wanted)"
    )
