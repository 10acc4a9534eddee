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
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

from flatscale.store.journal import Journal
from flatscale.store.results import Store, load_results
from flatscale.study.plan import plan
from flatscale.tracking.writer import TrackingWriter
from tests.records_by_hand import record, study

STUDY = {
    "name": "trivial",
    "data": {"source": "digits", "train_size": 20, "test_size": 20},
    "models": [{"architecture": "mlp", "options": {"width": 4}}],
    "training": {"max_steps": 1},
    "measurement": {"probe_size": 10, "metrics": ["train_loss"]},
    "analysis": {"primary": ["learning_rate", "train_loss"], "outcomes": ["train_loss"]},
}


def flatscale(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "flatscale", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(config: Path, store: Path) -> tuple[float, list[float]]:
    """Wall seconds of the whole command, and the driver's resident GiB sampled as it ran."""
    began = time.perf_counter()
    process = flatscale("run", str(config), "--store", str(store))
    resident_gib = []
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        line = next((x for x in status.splitlines() if x.startswith("VmRSS")), None)
        if line is not None:
            resident_gib.append(int(line.split()[1]) / 2**20)
        time.sleep(0.2)
    assert process.returncode == 0
    return time.perf_counter() - began, resident_gib


def seconds(*arguments: str) -> float:
    began = time.perf_counter()
    assert flatscale(*arguments).wait() == 0
    return time.perf_counter() - began


@pytest.mark.benchmark(group="orchestration")
@pytest.mark.parametrize("num_trials", [200, 1000])
def test_cost_of_a_trial_over_its_own_work(benchmark, tmp_path: Path, num_trials: int) -> None:
    design = {
        "kind": "grid",
        "learning_rate": [0.1, 0.2],
        "batch_size": [20],
        "num_seeds": num_trials // 2,
    }
    config = tmp_path / "trivial.yaml"
    config.write_text(yaml.safe_dump({**STUDY, "design": design}))
    store = tmp_path / "store"
    wall, resident_gib = benchmark.pedantic(run, args=(config, store), rounds=1)
    trials = load_results(store).trials
    assert (trials["status"] == "finished").sum() == num_trials
    own = trials.select(pl.col("train_seconds") + pl.col("measure_seconds")).sum().item()
    at_a_time = min(num_trials, os.cpu_count() or 1)
    first, last = trials["started_at"].min(), trials["finished_at"].max()
    steady = (last - first).total_seconds()
    whole_cost = (wall - own / at_a_time) / num_trials
    steady_cost = (steady - own / at_a_time) / num_trials
    plan_seconds = seconds("plan", str(config), "--store", str(store))
    report_seconds = seconds("report", str(store))
    benchmark.extra_info.update(
        whole_cost=whole_cost,
        steady_cost=steady_cost,
        peak_gib=max(resident_gib),
        plan_seconds=plan_seconds,
        report_seconds=report_seconds,
    )
    print(
        f"\n{num_trials} trivial trials: wall {wall:.1f} s, own work {own:.1f} s on {at_a_time} "
        f"CPUs; cost {whole_cost:.3f} s a trial with start-up and report, {steady_cost:.3f} s "
        f"between the first start and the last end (at most 0.3 wanted); driver's memory "
        f"{max(resident_gib):.2f} GiB at most (1 allowed); plan {plan_seconds:.1f} s (5 allowed), "
        f"report {report_seconds:.1f} s (30 allowed)"
    )


@pytest.mark.benchmark(group="store")
@pytest.mark.parametrize("num_records", [1000, 4000])
def test_what_a_driver_reads_again_of_its_store(
    benchmark, tmp_path: Path, num_records: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    config = study(num_seeds=num_records // 4)
    store = Store(tmp_path)
    store.prepare(config)
    uri = "sqlite:///nowhere.db"
    journal = Journal(store, uri)
    journal.open()
    for spec in plan(config):
        store.write(record(spec))
        os.utime(store.record_file(spec.trial_id), (1e9, 1e9))
        journal.add(spec.trial_id, store.mark(spec.trial_id))

    def timed(function: Callable[[], object]) -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    first = timed(store.statuses)
    benchmark.pedantic(store.statuses, rounds=5)
    start = timed(lambda: TrackingWriter(store, config, uri))
    tracker = TrackingWriter(store, config, uri)
    assert tracker.num_waiting() == 0
    each_second = timed(tracker.num_waiting)
    again = benchmark.stats["mean"]
    benchmark.extra_info.update(first=first, start=start, each_second=each_second)
    print(
        f"\n{num_records} records: every status {first:.3f} s at first, {again:.3f} s again; "
        f"tracking compares in {start:.3f} s at the start, looks in {each_second:.6f} s a second"
    )
