"""What reaches MLflow: one run a trial, each point once, whatever was repeated on the way."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flatscale.cluster.mailbox import LossListener
from flatscale.errors import TrackingError
from flatscale.store.records import FAILED
from flatscale.store.results import Store
from flatscale.study.plan import plan
from flatscale.study.schema import TrackingConfig
from flatscale.tracking.own_database import make_database
from flatscale.tracking.runs import Runs
from flatscale.tracking.writer import TrackingWriter
from tests.records_by_hand import record, study


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated, empty MLflow database: making one takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def store(tmp_path: Path, template: bytes) -> Store:
    store = Store(tmp_path / "store")
    store.prepare(study())
    (store.root / "mlflow.db").write_bytes(template)
    for spec in plan(study()):
        store.write(record(spec))
    return store


def writer(store: Store, uri: str | None = None) -> TrackingWriter:
    return TrackingWriter(store, study(), uri)


def runs(store: Store, kind: str) -> list[Any]:
    client = MlflowClient(tracking_uri=f"sqlite:///{store.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("study")
    assert experiment is not None
    query = f"tags.`flatscale.kind` = '{kind}'"
    return client.search_runs([experiment.experiment_id], query, max_results=1000)


def test_one_run_a_trial_with_everything_in_its_place(store: Store) -> None:
    assert writer(store).deliver() == 12
    (parent,) = runs(store, "study")
    trials = runs(store, "trial")
    specs = {spec.trial_id: spec for spec in plan(study())}
    assert {run.data.tags["trial_id"] for run in trials} == set(specs)
    run = trials[0]
    spec = specs[run.data.tags["trial_id"]]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["family"] == spec.architecture
    assert run.data.params["learning_rate"] == str(spec.learning_rate)
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 60_000
    client = MlflowClient(tracking_uri=f"sqlite:///{store.root / 'mlflow.db'}")
    points = client.get_metric_history(run.info.run_id, "snapshots/mls")
    assert [(p.step, p.value) for p in sorted(points, key=lambda p: p.step)] == [
        (10, 11.0 + spec.seed_index),
        (100, 101.0 + spec.seed_index),
    ]
    # Networks of different numbers of steps are compared by what they are at their end.
    (last,) = client.get_metric_history(run.info.run_id, "mls")
    assert (last.step, last.value) == (0, 101.0 + spec.seed_index)
    assert run.data.metrics["std_error/mls"] == 0.5
    assert run.data.metrics["training/loss"] == 0.01


def test_metrics_are_in_the_order_that_matters(store: Store) -> None:
    writer(store).deliver()
    known = list(runs(store, "trial")[0].data.metrics)
    first = ["sharpness", "mls", "std_error/sharpness", "std_error/mls"]
    assert [*study().analysis.primary] == first[:2]
    assert known[:4] == first
    assert known[-1] == "training/loss"


def test_every_axis_is_a_parameter(store: Store) -> None:
    spec = plan(study())[0]
    store.write(record(spec, axes='{"training.optimizer": "SGD m=0.9", "model.options.width": 50}'))
    writer(store).deliver()
    (run,) = [r for r in runs(store, "trial") if r.data.tags["trial_id"] == spec.trial_id]
    assert run.data.params["training.optimizer"] == "SGD m=0.9"
    assert run.data.params["model.options.width"] == "50"


def test_a_network_that_was_not_trained_here_is_a_run_like_others(store: Store) -> None:
    untrained = dict.fromkeys(("optimizer", "learning_rate", "batch_size", "num_steps", "loss"))
    untrained |= {"momentum": None, "weight_decay": None, "train_seconds": None, "stop": None}
    spec = plan(study())[0]
    zoo = {"model": "vit.in1k", "weights_tag": "hub:in1k", "peak_memory_bytes": 7, "history": ()}
    store.write(record(spec, **untrained, **zoo))
    assert writer(store).deliver() == 12
    (run,) = [r for r in runs(store, "trial") if r.data.tags["trial_id"] == spec.trial_id]
    assert run.info.run_name.startswith("vit.in1k ")
    assert "weights hub:in1k" in run.data.tags["mlflow.note.content"]
    assert run.data.metrics["mls"] == 101.0 + spec.seed_index


def test_delivering_again_changes_nothing(store: Store) -> None:
    assert writer(store).deliver() == 12
    assert writer(store).deliver() == 0
    (journal,) = store.deliveries.iterdir()
    journal.unlink()
    assert writer(store).deliver() == 12
    assert len(runs(store, "trial")) == 12
    assert len(runs(store, "study")) == 1
    client = MlflowClient(tracking_uri=f"sqlite:///{store.root / 'mlflow.db'}")
    assert all(
        len(client.get_metric_history(run.info.run_id, "snapshots/mls")) == 2
        for run in runs(store, "trial")
    )


@pytest.mark.parametrize("step", ["log_batch", "set_terminated"])
def test_a_delivery_broken_off_is_finished_without_a_second_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    whole = getattr(MlflowClient, step)
    calls = []

    def broken(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise OSError("connection reset")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, step, broken)
    with pytest.raises(TrackingError, match="connection reset"):
        writer(store).deliver()
    assert 0 < writer(store).num_waiting() < 12
    monkeypatch.setattr(MlflowClient, step, whole)
    writer(store).deliver()
    assert writer(store).num_waiting() == 0
    assert len(runs(store, "trial")) == 12


def test_a_failed_trial_that_later_finishes_keeps_its_run(store: Store) -> None:
    spec = plan(study())[0]
    store.write(record(spec, status=FAILED, reason="worker died", snapshots=()))
    writer(store).deliver()
    before = {run.data.tags["trial_id"]: run for run in runs(store, "trial")}
    assert before[spec.trial_id].info.status == "FAILED"
    store.write(record(spec))
    assert writer(store).deliver() == 1
    after = {run.data.tags["trial_id"]: run for run in runs(store, "trial")}
    assert len(after) == 12
    assert after[spec.trial_id].info.run_id == before[spec.trial_id].info.run_id
    assert after[spec.trial_id].info.status == "FINISHED"
    assert "reason" not in after[spec.trial_id].data.tags
    assert after[spec.trial_id].data.metrics["mls"] > 0


def test_finish_attaches_files_and_ends_the_parent(store: Store, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>")
    tracker = writer(store)
    with tracker:
        tracker.finish((report, tmp_path / "absent"))
    (parent,) = runs(store, "study")
    assert parent.info.status == "FINISHED"
    client = MlflowClient(tracking_uri=f"sqlite:///{store.root / 'mlflow.db'}")
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert names == {"study.yaml", "report"}
    assert len(runs(store, "trial")) == 12


def test_a_server_that_is_away_loses_nothing(store: Store) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://someone:secret@127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(TrackingError) as caught:
        writer(store, uri).deliver()
    assert "secret" not in str(caught.value)
    assert writer(store, uri).num_waiting() == 12
    assert writer(store).deliver() == 12


def test_only_what_was_written_is_looked_at_after_the_start(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    whole = Store.marks

    def counting(self: Store) -> dict[str, str]:
        compared.append(1)
        return whole(self)

    monkeypatch.setattr(Store, "marks", counting)
    tracker = writer(store)
    assert tracker.deliver() == 12
    spec = plan(study())[0]
    store.write(record(spec, num_attempts=2))
    assert tracker.num_waiting() == 1
    assert tracker.deliver() == 1
    assert tracker.num_waiting() == 0
    assert len(compared) == 1
    assert writer(store).num_waiting() == 0


def test_a_record_written_again_while_it_is_delivered_is_delivered_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = MlflowClient.set_terminated
    spec = plan(study())[0]
    again = [record(spec, num_attempts=2)]

    def terminate(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        if again:
            store.write(again.pop())
        whole(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "set_terminated", terminate)
    assert writer(store).deliver() == 13
    assert writer(store).num_waiting() == 0
    assert len(runs(store, "trial")) == 12


def test_a_store_tracked_by_an_older_version_is_not_delivered_again(store: Store) -> None:
    writer(store).deliver()
    (journal,) = store.deliveries.iterdir()
    marks = store.delivery_marks(store.mlflow_uri)
    marks.mkdir()
    for line in journal.read_text().splitlines():
        trial_id, mark = line.split()
        (marks / trial_id).write_text(mark)
    journal.unlink()
    store.write(record(plan(study())[3], num_attempts=4))
    assert writer(store).deliver() == 1


def test_a_record_deleted_before_its_delivery_holds_up_no_other(store: Store) -> None:
    tracker = writer(store)
    store.record_file(plan(study())[0].trial_id).unlink()
    tracker.deliver()
    assert tracker.num_waiting() == 0
    assert len(runs(store, "trial")) == 11


def test_a_record_damaged_while_it_waits_is_said_once_and_holds_up_no_other(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = writer(store)
    damaged, again = (plan(study())[k] for k in (4, 0))
    path = store.record_file(damaged.trial_id)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"2")
    with tracker:
        tracker.finish(())
        store.write(record(again, num_attempts=2))
        assert tracker.deliver() == 1
    assert len(runs(store, "trial")) == 11
    said = [
        entry.getMessage() for entry in caplog.records if damaged.trial_id in entry.getMessage()
    ]
    assert len(said) == 1
    assert "is damaged" in said[0]
    # It was not noted as delivered: mended, it is.
    path.write_bytes(whole)
    assert writer(store).deliver() == 1
    assert len(runs(store, "trial")) == 12


def test_a_run_that_is_stopped_is_killed_and_runs_again_when_it_is_continued(store: Store) -> None:
    with writer(store) as tracker:
        wait_for_delivery(tracker)
        assert runs(store, "study")[0].info.status == "RUNNING"
        assert tracker.stop()
    (parent,) = runs(store, "study")
    assert parent.info.status == "KILLED"
    with writer(store) as again:
        again.deliver()
        (parent,) = runs(store, "study")
        assert parent.info.status == "RUNNING"
        again.finish(())
    assert [run.info.status for run in runs(store, "study")] == ["FINISHED"]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "KILLED"), (OSError("disk"), "FAILED")]
)
def test_a_driver_that_is_thrown_out_leaves_no_run_that_seems_to_run(
    store: Store, error: BaseException, status: str
) -> None:
    def thrown_out() -> None:
        with writer(store) as tracker:
            wait_for_delivery(tracker)
            raise error

    with pytest.raises(type(error)):
        thrown_out()
    assert [run.info.status for run in runs(store, "study")] == [status]


def wait_for_delivery(tracker: TrackingWriter) -> None:
    deadline = time.monotonic() + 60
    while tracker.num_waiting():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_losses_appear_while_a_trial_trains_and_each_point_once(store: Store) -> None:
    spec = plan(study())[0]
    store.record_file(spec.trial_id).unlink()
    losses = ((1, 0.5), (50, 0.1), (100, 0.01))
    tracker = writer(store)
    tracker.deliver()
    assert isinstance(tracker, LossListener)
    parts = [record(spec, status=FAILED, history=losses[k : k + 1]) for k in range(2)]
    for part in parts:
        tracker.trains(part)
    tracker._show_losses()
    client = MlflowClient(tracking_uri=f"sqlite:///{store.root / 'mlflow.db'}")
    (run,) = [r for r in runs(store, "trial") if r.info.status == "RUNNING"]
    assert (run.data.tags["family"], run.data.params["learning_rate"]) == ("mlp", "0.1")
    assert not {"status", "reason"} & set(run.data.tags)
    points = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(p.step, p.value) for p in points] == [(1, 0.5), (50, 0.1)]
    tracker.trains(record(spec, history=losses[1:2]))
    store.write(record(spec, history=losses))
    tracker._show_losses()  # nothing: the record says it all
    assert tracker.deliver() == 1
    (after,) = [r for r in runs(store, "trial") if r.data.tags["trial_id"] == spec.trial_id]
    assert (after.info.run_id, after.info.status) == (run.info.run_id, "FINISHED")
    points = client.get_metric_history(run.info.run_id, "training/loss")
    assert [(p.step, p.value) for p in points] == list(losses)


@pytest.mark.parametrize("told", [True, False])
def test_a_trial_that_was_left_while_it_trained_does_not_seem_to_train(
    store: Store, told: bool
) -> None:
    spec = plan(study())[0]
    store.record_file(spec.trial_id).unlink()
    tracker = writer(store)
    tracker.deliver()
    tracker.trains(record(spec, history=((1, 0.5),)))
    tracker._show_losses()
    if told:
        tracker._runs.end("KILLED")
    else:  # the driver was killed, and another one continues
        writer(store).deliver()
    (left,) = [r for r in runs(store, "trial") if "trial_id" not in r.data.tags]
    assert left.info.status == "KILLED"


def test_losses_of_trials_wait_for_no_server(store: Store) -> None:
    spec = plan(study())[0]
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = writer(store, f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        tracker._thread.start()
        for step in range(1_500):
            tracker.trains(record(spec, history=((step, 0.5),)))
        assert time.monotonic() - began < 9  # one answer is waited for longer
        assert len(tracker._losses[spec.trial_id].history) <= 1_000
        tracker._stop.set()


def test_a_driver_killed_while_the_database_is_made_leaves_none_that_is_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mlflow.db"
    if (child := os.fork()) == 0:
        make_database(path)
        os._exit(0)
    tables = 0
    while tables < 3:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        with (
            suppress(sqlite3.OperationalError),
            closing(
                sqlite3.connect(f"file:{tmp_path / '.tmp-mlflow.db'}?mode=ro", uri=True)
            ) as half,
        ):
            ((tables,),) = half.execute("SELECT count(*) FROM sqlite_master")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not path.exists()
    make_database(path)
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    assert client.create_experiment("after") != ""
    assert [p.name for p in tmp_path.iterdir()] == ["mlflow.db"]


def test_delivery_begins_with_the_first_trial_where_there_is_one(store: Store) -> None:
    with TrackingWriter(store, study(), with_trials=True) as tracker:
        time.sleep(0.5)
        assert "_runs" not in vars(tracker)
        assert tracker.num_waiting() == 12
        tracker.started("trial")
        wait_for_delivery(tracker)


def test_a_moved_store_keeps_its_artifacts(store: Store, tmp_path: Path) -> None:
    with writer(store) as tracker:
        tracker.finish((store.study_file,))
    moved = Store(shutil.move(store.root, tmp_path / "elsewhere"))
    # In a process of its own, as the next driver is: MLflow remembers where a run's artifacts were.
    code = (
        "import sys; from flatscale.store.results import Store;"
        "from flatscale.tracking.writer import TrackingWriter; from tests.records_by_hand import *;"
        "store = Store(sys.argv[1])\n"
        "with TrackingWriter(store, study()) as tracker: tracker.finish((store.id_file,))"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code, str(moved.root)], cwd=root, check=True)
    assert not store.root.exists()
    (parent,) = runs(moved, "study")
    folder = moved.mlflow_artifacts / parent.info.run_id / "artifacts"
    assert parent.info.artifact_uri == folder.as_uri()
    assert (folder / "study.yaml").read_bytes() == moved.study_file.read_bytes()
    assert (folder / "store_id").is_file()


def test_runs_say_who_made_them_from_what(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.report.joinpath("findings.json").write_text(
        json.dumps(
            {
                "primary": ["sharpness", "mls"],
                "summary": ["Asked: something.", "Found: r = 0.50 over 12 networks."],
                "tables": {
                    "findings": [
                        {"x": "sharpness", "y": "mls", "scope": scope, "method": "pearson"}
                        | {"estimate": estimate, "conf_low": 0.1, "num_trials": 12}
                        for scope, estimate in (("within", 0.9), ("pooled", 0.5))
                    ]
                },
            }
        )
    )
    with writer(store) as tracker:
        tracker.finish(())
    (parent,) = runs(store, "study")
    assert parent.data.metrics == {
        "primary/estimate": 0.5,
        "primary/conf_low": 0.1,
        "primary/num_trials": 12,
        "trials/finished": 12,
    }
    assert parent.data.params["models.0.architecture"] == "mlp"
    assert parent.data.params["design.learning_rate"] == "[0.1, 0.2]"
    assert parent.data.tags["mlflow.note.content"] == "r = 0.50 over 12 networks."
    for run in (parent, *runs(store, "trial")):
        assert run.data.tags["mlflow.user"] == getpass.getuser()
        assert run.data.tags["mlflow.source.name"].startswith("flatscale ")
    run = runs(store, "trial")[0]
    assert "batches of 16" in run.data.tags["mlflow.note.content"]
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "data")
    # A study that has grown: parameters stay as they were, what is new stands beside them.
    grown = study(num_seeds=4)
    with TrackingWriter(store, grown) as tracker:
        tracker.finish(())
    (parent,) = runs(store, "study")
    assert parent.data.params["design.num_seeds"] == "3"
    assert parent.data.tags["now.design.num_seeds"] == "4"


def test_the_environments_tracking_uri_is_taken_where_the_study_names_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from.environment")
    assert writer(store).uri == "http://from.environment"
    assert writer(store, "http://asked").uri == "http://asked"
    named = study(tracking={"uri": "http://of.study"})
    assert TrackingWriter(store, named).uri == "http://of.study"


def test_what_the_machine_does_is_logged_on_request(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    asked = study().model_copy(update={"tracking": TrackingConfig(system_metrics=True)})
    for config, expected in ((study(), False), (asked, True)):
        tracked = Runs(store, config, store.mlflow_uri)
        tracked.find_study()
        time.sleep(0.5)
        tracked.end("KILLED")
        (parent,) = runs(store, "study")
        assert ("system/cpu_utilization_percentage" in parent.data.metrics) is expected
        assert parent.info.status == "KILLED"
