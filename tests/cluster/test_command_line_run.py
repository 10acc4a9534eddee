"""Whole studies through `flatscale run`: killed, interrupted, continued, tracked, reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flatscale.cli.commands import main
from flatscale.store.results import Store
from flatscale.store.status import study_status

MakeFile = Callable[..., Path]
LONGER = {"kind": "grid", "learning_rate": [0.1, 0.2, 0.3], "batch_size": [20], "num_seeds": 4}


def start(config: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flatscale", "run", str(config), "--store", str(store)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=config.parent,
        start_new_session=True,
    )


def wait_until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_records(store: Path, number: int, process: subprocess.Popen[str]) -> None:
    records = store / "records"
    wait_until(lambda: len(list(records.glob("[!.]*.parquet"))) >= number, process)


def study_run(store: Path) -> Any:
    """The study's own run in MLflow."""
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    query = "tags.`flatscale.kind` = 'study'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    return run


def modification_times(store: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in (store / "records").glob("[!.]*.parquet")}


def test_a_killed_and_an_interrupted_driver_continue_where_they_were(
    study_file: MakeFile, tmp_path: Path
) -> None:
    config = study_file(design=LONGER)
    store = tmp_path / "store"

    process = start(config, store)
    wait_for_records(store, 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = modification_times(store)
    assert 2 <= len(kept) < 12
    # what a kill in the middle of a write leaves
    for folder in (store, store / "records", store / "checkpoints"):
        (folder / ".tmp-killed").write_bytes(b"half a")

    process = start(config, store)
    wait_for_records(store, len(kept) + 2, process)
    now = study_status(Store(store))
    assert now.alive
    assert now.num_planned == 12
    assert now.counts["finished"] >= len(kept) + 2
    assert (now.trials_per_minute or 0) > 0
    assert (now.minutes_left or 0) > 0
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "continues" in errors
    assert study_run(store).info.status == "KILLED"
    kept_again = modification_times(store)
    assert len(kept_again) < 12
    now = study_status(Store(store))
    assert not now.alive
    assert not now.running
    assert now.counts == {"finished": len(kept_again), "missing": 12 - len(kept_again)}

    process = start(config, store)
    wait_for_records(store, len(kept_again) + 1, process)
    wait_until(lambda: study_run(store).info.status == "RUNNING", process)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert study_run(store).info.status == "FINISHED"
    assert "12 finished" in output
    times = modification_times(store)
    assert len(times) == 12
    assert {p: times[p] for p in kept_again} == kept_again
    assert {p: times[p] for p in kept} == kept

    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    trials = [r.data.tags["trial_id"] for r in runs if r.data.tags["flatscale.kind"] == "trial"]
    assert sorted(trials) == sorted(Store(store).statuses())
    (parent,) = [r for r in runs if r.data.tags["flatscale.kind"] == "study"]
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"report", "study.yaml", "trials.parquet", "measurements.parquet"} <= artifacts

    page = store / "report" / "report.html"
    assert page.is_file()
    assert str(page) in output.replace("\n", "")
    assert not [p for p in store.rglob("*") if p.name.startswith(".tmp-")]


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 3])
def test_ctrl_c_ends_a_run_within_seconds_while_trials_go_on(
    study_file: MakeFile, tmp_path: Path, presses: int
) -> None:
    design = {"kind": "grid", "learning_rate": [0.3, 1e-9], "batch_size": [20], "num_seeds": 3}
    config = study_file(design=design, training={"stop_loss": 0.05, "max_steps": 10**8})
    store = tmp_path / "store"
    process = start(config, store)
    wait_for_records(store, 1, process)
    while len(study_status(Store(store)).running) < 2:
        time.sleep(0.1)
    time.sleep(2)  # the second trial is in its training loop, and would be for hours
    began = time.monotonic()
    for _ in range(presses):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=60)
    # 3 s on a machine of one's own
    assert time.monotonic() - began < 12
    assert process.returncode == 130, errors
    assert "running trials end now" in " ".join(errors.split())
    assert "Traceback" not in errors
    assert study_run(store).info.status == "KILLED"
    assert study_status(Store(store)).counts["failed"] == 0


def run_here(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """`flatscale run …` in this process, on the Ray that is there; its exit status."""
    monkeypatch.setattr(sys, "argv", ["flatscale", "run", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.usefixtures("small_ray")
def test_a_trial_that_fails_makes_the_command_fail_and_still_reports(
    study_file: MakeFile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = [
        {"architecture": "mlp", "options": {"width": 16}},
        {"architecture": "fails_in_training"},
    ]
    design = {"kind": "grid", "learning_rate": [0.1, 0.3], "batch_size": [20]}
    config = study_file(models=models, design=design, plugins=["tests.cluster.plugin"])
    store = str(tmp_path / "store")
    assert run_here(str(config), "--store", store, monkeypatch=monkeypatch) == 1
    printed = capsys.readouterr().out
    assert "broken on purpose" in printed
    assert "2 failed, 2 finished" in printed
    assert (tmp_path / "store" / "report" / "report.html").is_file()


@pytest.mark.usefixtures("small_ray")
@pytest.mark.slow
def test_the_cifar_study_runs_on_real_images(
    cifar10_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Path(__file__).resolve().parents[2] / "configs" / "cifar10_vgg.yaml"
    overrides = [
        f"data.path={cifar10_folder}",
        "data.train_size=40",
        "data.test_size=20",
        "design.learning_rate=[0.1]",
        "design.batch_size=[10, 20]",
        "design.num_seeds=1",
        "training.max_steps=60",
        "measurement.probe_size=12",
        "analysis.num_resamples=100",
        "tracking.enabled=false",
    ]
    store = tmp_path / "store"
    arguments = [str(config), "--store", str(store)]
    for override in overrides:
        arguments += ["--set", override]
    assert not run_here(*arguments, monkeypatch=monkeypatch)
    table = Store(store).read().table()
    assert table["status"].to_list() == ["finished"] * 2
    assert (table["num_classes"] == 2).all()
    assert table["mls"].is_finite().all()
    assert (store / "report" / "report.html").is_file()
