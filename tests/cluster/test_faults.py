"""Workers, actors and nodes are killed on purpose; the numbers do not change."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray

from flatscale.cluster.launch import run_trials
from flatscale.cluster.probe_pool import ProbePool, make_pools
from flatscale.data import load_all_points
from flatscale.preflight import check_study
from flatscale.store.records import TrialRecord
from flatscale.store.results import Results, Store
from flatscale.study.plugin_code import code_of_all
from flatscale.study.schema import StudyConfig
from tests.cluster.processes import kill, own_workers

Make = Callable[..., StudyConfig]
pytestmark = pytest.mark.usefixtures("small_ray")

NUMBERS = ["trial_id", "step", "is_final", "metric", "value", "std_error", "probe_hash"]
# Steps enough that a worker can be killed between two checkpoints.
LONG = {
    "design": {"kind": "grid", "learning_rate": [0.01], "batch_size": [5], "num_seeds": 2},
    "training": {"stop_loss": 1e-9, "max_steps": 2500, "checkpoint_every": 100},
    "measurement": {
        "probe_size": 21,
        "metrics": ["mls", "sharpness", "adaptive_sharpness", "train_loss"],
        "num_snapshots": 6,
    },
}


class Killer:
    """Kills workers of one kind a while after a trial starts, a limited number of times."""

    def __init__(self, title: str, times: int, wait: float = 0.5) -> None:
        self.killed = 0
        self._title = title
        self._left = times
        self._wait = wait
        self._one_at_a_time = threading.Lock()

    def started(self, trial_id: str) -> None:
        if self._left:
            self._left -= 1
            threading.Timer(self._wait, self._strike).start()

    def ended(self, record: TrialRecord) -> None:
        pass

    def _strike(self) -> None:
        deadline = time.monotonic() + 30
        with self._one_at_a_time:
            while not (there := own_workers(self._title)) and time.monotonic() < deadline:
                time.sleep(0.02)
            self.killed += kill(there[:1])
            while set(there[:1]) & set(own_workers(self._title)):
                time.sleep(0.02)


def run(config: StudyConfig, root: Path, *listeners: Killer) -> Results:
    store = Store(root)
    specs = check_study(config)
    store.prepare(config.model_copy(update={"plugin_code": code_of_all(specs)}))
    run_trials(config, specs, load_all_points(specs), store, listeners=listeners)
    return store.read([s.trial_id for s in specs])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_ray: None) -> Results:
    from flatscale.study.reading import parse_config
    from tests.cluster.conftest import SMALL

    return run(parse_config({**SMALL, **LONG}), tmp_path_factory.mktemp("undisturbed"))


def assert_same(one: Results, other: Results) -> None:
    numbers = [r.measurements.select(NUMBERS).sort(NUMBERS[:4]) for r in (one, other)]
    assert numbers[0].height == numbers[1].height > 0
    assert numbers[0].equals(numbers[1])
    assert one.history.equals(other.history)


def test_a_trial_killed_in_training_resumes_and_ends_with_the_same_numbers(
    small_study: Make, tmp_path: Path, undisturbed: Results
) -> None:
    killer = Killer("ImplicitFunc", times=2, wait=1.0)
    results = run(small_study(**LONG), tmp_path, killer)
    assert killer.killed == 2
    assert results.trials["num_attempts"].max() >= 2
    assert_same(results, undisturbed)
    assert not list((tmp_path / "checkpoints").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_probe_actor_killed_in_measuring_is_made_again_with_the_same_numbers(
    small_study: Make, tmp_path: Path, undisturbed: Results
) -> None:
    killer = Killer("_ProbeActor", times=2, wait=0.7)
    results = run(small_study(**LONG), tmp_path, killer)
    assert killer.killed == 2
    assert results.trials["num_attempts"].to_list() == [1, 1]
    assert_same(results, undisturbed)


@pytest.mark.slow
def test_a_probe_pool_gone_for_good_fails_the_trial_after_its_retries_and_no_metric(
    small_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = []

    def make_and_keep(*arguments: Any) -> dict[str, ProbePool]:
        made = make_pools(*arguments)
        pools.extend(made.values())
        return made

    class Finisher:
        def started(self, trial_id: str) -> None:
            if not first:
                first.append(trial_id)
                for actor in pools[0].actors:
                    ray.kill(actor, no_restart=True)

        def ended(self, record: TrialRecord) -> None:
            pass

    first: list[str] = []
    monkeypatch.setattr("flatscale.cluster.launch.make_pools", make_and_keep)
    design = {"kind": "grid", "learning_rate": [0.1], "batch_size": [20]}
    config = small_study(design=design, resources={"max_retries": 1})
    results = run(config, tmp_path, Finisher())
    (trial,) = results.trials.iter_rows(named=True)
    assert (trial["status"], trial["num_attempts"]) == ("failed", 2)
    assert "in each of 2 attempts the probe actors did not answer" in trial["reason"]
    assert len(trial["reason"].splitlines()) == 1
    assert results.measurements.height == 0

    # The same command makes a new pool and tries them again.
    again = run(config, tmp_path)
    assert again.trials["status"].to_list() == ["finished"]
    assert again.measurements["value"].is_finite().all()


@pytest.mark.slow
def test_running_out_of_memory_shrinks_the_batch_and_then_fails_with_the_reason(
    small_study: Make, tmp_path: Path
) -> None:
    models = [
        {"architecture": "small_memory", "options": {"limit": 4}},
        {"architecture": "small_memory", "options": {"limit": 0}},
        {"architecture": "small_memory", "options": {"limit": 1000}},
    ]
    config = small_study(
        models=models,
        design={"kind": "grid", "learning_rate": [0.1], "batch_size": [20]},
        measurement={"probe_size": 21, "metrics": ["mls"]},
        plugins=["tests.cluster.plugin"],
    )
    results = run(config, tmp_path)
    rows = results.trials.join(results.measurements, on="trial_id")
    values = dict(rows.filter(metric="mls").select("options", "value").iter_rows())
    lost = rows.filter(options='{"limit": 0}')
    assert lost["value"].is_null().all()
    assert set(lost["metric"]) == {"mls", "bound_a", "bound_b", "bound_c", "bound_d"}
    assert lost["reason_right"].str.contains("memory").all()
    assert rows["value"].null_count() == len(lost)
    assert results.trials["status"].to_list() == ["finished"] * 3
    assert values['{"limit": 4}'] == pytest.approx(values['{"limit": 1000}'], rel=0.5)


def test_running_out_of_memory_in_training_shrinks_the_batch_or_fails_with_the_reason(
    small_study: Make, tmp_path: Path
) -> None:
    models = [
        {"architecture": "small_gpu", "options": {"limit": 1000}, "family": "sound"},
        {"architecture": "small_gpu", "options": {"limit": 3}, "family": "split"},
        {"architecture": "small_gpu", "options": {"limit": 0}, "family": "nothing fits"},
        {
            "architecture": "small_gpu",
            "options": {"limit": 3, "normalises": True},
            "family": "cannot be split",
        },
    ]
    config = small_study(
        models=models,
        design={"kind": "grid", "learning_rate": [0.1], "batch_size": [20]},
        measurement={"probe_size": 21, "metrics": ["mls", "train_loss"]},
        training={"stop_loss": 1e-9, "max_steps": 30},
        plugins=["tests.cluster.plugin"],
    )
    results = run(config, tmp_path)
    rows = {row["family"]: row for row in results.table().iter_rows(named=True)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "sound": "finished",
        "split": "finished",
        "nothing fits": "failed",
        "cannot be split": "failed",
    }
    assert "out of memory with one image at a time" in rows["nothing fits"]["reason"]
    assert "normalises over the batch" in rows["cannot be split"]["reason"]
    assert rows["split"]["num_steps"] == 30
    assert 0 < rows["split"]["train_loss"] < 1


@pytest.mark.slow
def test_nodes_leave_and_join_and_the_store_is_that_of_one_node(
    small_study: Make, tmp_path: Path, undisturbed: Results
) -> None:
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        with ThreadPoolExecutor(1) as thread:
            study = thread.submit(run, small_study(**LONG), tmp_path)
            # Both trials have begun to train, one on each node.
            while len(list(tmp_path.glob("checkpoints/partial/*/training.safetensors"))) < 2:
                assert not study.done()
                time.sleep(0.05)
            cluster.remove_node(nodes[0])
            cluster.add_node(num_cpus=1)
            results = study.result(timeout=200)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert results.trials["num_attempts"].max() >= 2
    assert_same(results, undisturbed)
