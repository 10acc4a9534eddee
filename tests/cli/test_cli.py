"""The command line: its surface, and its words when something is wrong."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

import flatscale as package
from flatscale import __version__
from flatscale.cli.commands import app, main
from flatscale.data import load_all_points, points_key
from flatscale.errors import ConfigError, FlatscaleError, StatsError
from flatscale.metrics import metric_catalog, value_ids
from flatscale.metrics.registration import METRICS
from flatscale.store.results import Store
from flatscale.study.plan import plan
from flatscale.study.reading import load_config
from tests.conftest import SHARED
from tests.records_by_hand import record, study

STUDY = {
    "name": "study",
    "models": [{"architecture": "mlp", "options": {"width": 8}}],
    "design": {"kind": "grid", "learning_rate": [0.1, 0.2], "batch_size": [16]},
}


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def test_the_commands_and_their_help() -> None:
    runner = CliRunner()
    text = runner.invoke(app, ["--help"]).output
    for command in ("plan", "run", "status", "report", "analyze", "metrics", "ui", "schema"):
        assert command in text
        assert len(runner.invoke(app, [command, "--help"]).output) > 200
    assert runner.invoke(app, ["--version"]).output.strip() == __version__


def test_plan_lists_trials_and_runs_nothing(
    flatscale: Command, config: Path, tmp_path: Path
) -> None:
    done = flatscale("plan", str(config), "--set", "design.num_seeds=3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 trials, 0 done, 6 to run" in " ".join(done.stdout.split())
    assert list(tmp_path.iterdir()) == [config]


def test_plan_says_what_varies_what_is_there_and_what_it_takes(
    flatscale: Command, tmp_path: Path
) -> None:
    path, store = tmp_path / "study.yaml", tmp_path / "store"
    optimizers = ["sgd", {"label": "heavy", "name": "sgd", "momentum": 0.9}]
    axes = {
        "training.learning_rate": [0.1],
        "training.batch_size": [16, "full"],
        "training.optimizer": optimizers,
        "measurement.probe_size": [10, 20],
    }
    data = {"source": "digits", "classes": [0, 1], "train_size": 50, "test_size": 20}
    training = {"max_steps": 20}
    parts = {"design": {"axes": axes}, "data": data, "training": training}
    path.write_text(yaml.safe_dump({**STUDY, **parts}))
    arguments = ["plan", str(path), "--store", str(store)]
    done = flatscale(*arguments, "--time", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    for words in (
        "training.optimizer │ 2 │ sgd, heavy",
        "8 trials, 0 done, 8 to run",
        "4 networks; of the trials to run 8 train, 0 only measure",
        "50 training and 20 test points, 10 in the probe set",
        "disk about",
        "first mlp: 20 steps in",
        "8 such trials to run",
        "time about",
    ):
        assert words in said, done.stdout
    assert "each trained anew; keep_checkpoints: true trains each once" in done.stderr
    kept = " ".join(flatscale(*arguments, "--set", "keep_checkpoints=true").stdout.split())
    assert "of the trials to run 4 train, 4 only measure" in kept
    assert "weights" in kept
    assert not store.exists()


def test_plan_times_with_the_threads_of_a_trial(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), list[int]()

    def train(*_: object, **__: object) -> None:
        seen.append(torch.get_num_threads())
        raise FlatscaleError("seen")

    monkeypatch.setattr("flatscale.cli.forecast.train", train)
    arguments = ["plan", str(config), "--time", "--set", "resources.cpus_per_trial=3"]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, FlatscaleError)
    assert seen == [3]
    assert torch.get_num_threads() == before


def test_plan_warns_of_training_again_and_of_data_that_are_not_there(
    flatscale: Command, config: Path, tmp_path: Path
) -> None:
    study = load_config(config)
    store = Store(tmp_path / "store")
    store.prepare(study)
    for spec in plan(study):
        store.write(record(spec))
    arguments = ["plan", str(config), "--store", str(store.root)]
    again = flatscale(*arguments, "--set", "measurement.metrics=[mls, sharpness, log_lvr]")
    assert "results of 2 of these networks, measured otherwise" in again.stderr
    assert "they are trained again" in again.stderr
    missing = flatscale(*arguments, "--set", "data={source: folder, path: absent}")
    assert missing.returncode == 0
    assert "data:" in missing.stderr
    assert "absent" in missing.stderr


def test_plan_says_how_many_metrics_are_new_on_kept_networks(config: Path, tmp_path: Path) -> None:
    kept = "keep_checkpoints=true"
    study = load_config(config, (kept, "measurement.metrics=[mls, sharpness, log_lvr]"))
    store, specs = Store(tmp_path / "store"), plan(study)
    store.prepare(study)
    hashes = load_all_points(specs)[points_key(specs[0])].content_hashes
    for spec in specs:
        store.write(record(spec, value_ids=json.dumps(value_ids(spec, hashes))))
        store.weights_file(spec.weights_id).touch()
    arguments = ["plan", str(config), "--store", str(store.root), "--set", kept]
    for metrics, words in (
        ("mls, sharpness, loss_gap", "2 only measure 1 new metric: loss_gap"),
        ("mls, sharpness, loss_gap, nmls", "2 only measure 2 new metrics: loss_gap, nmls"),
        ("mls, sharpness", "2 only measure 0 new metrics, the store has them all"),
    ):
        changed = ["--set", f"measurement.metrics=[{metrics}]"]
        shown = CliRunner().invoke(app, [*arguments, *changed], catch_exceptions=False).output
        assert words in " ".join(shown.split())


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("models.0=1", "models"),
        ("measurement.metrics=[mlz]", "'mls'"),
        ("data.source=digit", "'digits'"),
        ("training.loss=cross_entropie", "'cross_entropy'"),
        ("training.optimizer.name=sdg", "'sgd'"),
        ("analysis.primary=[sharpness, mlx]", "'mls'"),
        ("plugins=[no_such_module]", "no_such_module"),
        ("models=[{architecture: mlpp}]", "'mlp'"),
        ("models=[{architecture: mlp, options: {widht: 3}}]", "'width'"),
        ("measurement.options={mls: {rho: 1}}", "mls"),
    ],
)
def test_a_wrong_name_is_one_message_before_anything_starts(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    override: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["flatscale", "run", str(config), "--set", override])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert words in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("command", ["report", "status", "ui"])
def test_a_folder_that_is_no_store_is_one_message(
    flatscale: Command, tmp_path: Path, command: str
) -> None:
    done = flatscale(command, str(tmp_path))
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.stderr


def test_metrics_lists_formulas(flatscale: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    # without what other tests' plugins registered in this process
    own = [i for i in metric_catalog() if i.function.__module__.startswith("flatscale.")]
    names = {info.name for info in own}
    kept = {name: entry for name, entry in METRICS.items() if name in names}
    monkeypatch.setattr(METRICS, "_entries", kept)
    done = flatscale("metrics")
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line[:1].strip()}
    assert listed == {info.name for info in own}
    for info in own:
        assert info.meaning.split()[0] in done.stdout


def test_schema_is_json(flatscale: Command) -> None:
    done = flatscale("schema")
    assert "design" in json.loads(done.stdout)["properties"]


def test_a_store_of_another_study_is_refused(
    flatscale: Command, config: Path, tmp_path: Path
) -> None:
    Store(tmp_path / "store").prepare(study(name="other"))
    done = flatscale("run", str(config), "--store", str(tmp_path / "store"))
    assert done.returncode == 2
    assert "other" in done.stderr


def test_any_table_can_be_analysed(flatscale: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"{family}_{k}" for family in ("resnet", "vit", "mixer", "vgg") for k in range(12)]
    x = rng.standard_normal(48)
    table = pl.DataFrame({"model": names, "x": x, "y": x + rng.standard_normal(48)})
    table.write_csv(tmp_path / "table.csv")
    outcome = pl.DataFrame({"model": names[:40], "error": x[:40] ** 2})
    outcome.write_csv(tmp_path / "outcome.csv")
    arguments = ["--x", "x", "--y", "y", "--family-from", "model", "--on", "model"]
    arguments += ["--outcomes", str(tmp_path / "outcome.csv"), "--out", str(tmp_path / "out")]
    done = flatscale("analyze", str(tmp_path / "table.csv"), *arguments)
    assert done.returncode == 0, done.stderr
    findings = pl.read_parquet(tmp_path / "out" / "findings.parquet")
    pooled = findings.filter(pl.col("x") == "x", pl.col("y") == "y", pl.col("scope") == "pooled")
    assert pooled.filter(method="pearson_jackknife")["num_families"].to_list() == [4]
    joined = pl.read_parquet(tmp_path / "out" / "data" / "outcome_associations.parquet")
    assert "error" in joined["y"].to_list()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "resnet_0" in page

    done = flatscale("analyze", str(tmp_path / "table.csv"), "--x", "x", "--y", "z")
    assert done.returncode == 2
    assert "'z'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_table_whose_rows_several_columns_name_together(tmp_path: Path) -> None:
    path = SHARED / "published" / "openclip_results.csv"
    if not path.is_file():
        pytest.skip("the table is not beside the checkout (../shared/data/published)")
    x, y = "ImageNet 1k", "CIFAR-10"
    arguments = ["analyze", str(path), "--x", x, "--y", y, "--family-from", "name"]
    arguments += ["--out", str(tmp_path)]
    with pytest.raises(StatsError, match=r"name another label column or several .*--label"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    done = CliRunner().invoke(app, [*arguments, "--label", "name, pretrained"])
    assert done.exit_code == 0, done.output
    rows = pl.read_csv(path).height
    pooled = pl.read_parquet(tmp_path / "findings.parquet").filter(
        pl.col("x") == x, pl.col("y") == y, scope="pooled", method="pearson"
    )
    assert pooled["num_trials"].to_list() == [rows]
    labels = pl.read_parquet(tmp_path / "data" / "residuals.parquet")["label"]
    assert "ViT-B-32 · laion2b_s34b_b79k" in labels


def test_a_label_that_is_no_column_is_one_message(tmp_path: Path) -> None:
    table = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0], "y": [1.0, 2.0, 4.0, 3.0], "a": [1, 1, 2, 2]})
    table.write_csv(tmp_path / "table.csv")
    arguments = ["analyze", str(tmp_path / "table.csv"), "--x", "x", "--y", "y"]
    for label, words in (("a,b", "'b'"), ("a", "'a' must label each row once")):
        with pytest.raises(StatsError, match=words):
            CliRunner().invoke(app, [*arguments, "--label", label], catch_exceptions=False)


def test_a_command_whose_output_nobody_reads_goes_on_quietly():
    process = subprocess.Popen(
        [sys.executable, "-m", "flatscale", "metrics"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_the_analysis_job_writes_the_report_of_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    analysis = {"primary": ["sharpness", "mls"], "num_resamples": 100}
    config = study(num_seeds=4, analysis=analysis)
    store = Store(tmp_path)
    store.prepare(config)
    for spec in plan(config):
        store.write(record(spec))
    job = Path(__file__).resolve().parents[2] / "jobs" / "analyze.py"
    monkeypatch.setattr(sys, "argv", ["analyze.py", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(job), run_name="__main__")
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert "report.html" in said.out
    assert "sharpness" in (tmp_path / "report" / "report.html").read_text()
    done = subprocess.run(
        [sys.executable, str(job), str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_one_metric_or_a_plugins_is_listed_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = CliRunner().invoke(app, ["metrics", "mls", "nmls"]).output
    assert [line for line in shown.splitlines() if line[:1].strip()] == [
        "mls (measured by default)",
        "nmls (measured by default)",
    ]
    with pytest.raises(ConfigError, match="did you mean 'mls'"):
        CliRunner().invoke(app, ["metrics", "mlss"], catch_exceptions=False)
    monkeypatch.setattr(METRICS, "_entries", dict(METRICS.items()))
    source = (
        "from flatscale.metrics import metric\n\n\n"
        "@metric('listed', passes=('jacobian',), formula='one', group='compression')\n"
        "def listed(found):\n    '''A metric of a plugin.'''\n"
    )
    (tmp_path / "listed_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    shown = CliRunner().invoke(app, ["metrics", "listed", "--plugin", "listed_plugin"]).output
    assert "A metric of a plugin." in shown


def test_an_item_of_a_list_is_overridden_by_its_number(config: Path) -> None:
    changed = load_config(config, ("models.0.options.width=50", "design.learning_rate.1=0.3"))
    assert changed.models[0].options == {"width": 50}
    assert changed.design.learning_rate == (0.1, 0.3)
    with pytest.raises(ConfigError, match=r"'models\.1\.family=x': '1' must be 0 to 0"):
        load_config(config, ("models.1.family=x",))


def test_a_busy_port_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare(study())
    store.mlflow_database.touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(FlatscaleError, match=rf"port {port} of 127\.0\.0\.1 cannot be used"):
            CliRunner().invoke(
                app, ["ui", str(tmp_path), "--port", str(port)], catch_exceptions=False
            )


def test_the_ui_opens_the_experiments_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.prepare(study())
    client = MlflowClient(tracking_uri=store.mlflow_uri)
    identity = client.create_experiment("study")
    monkeypatch.setattr(os, "execve", lambda *_: None)
    shown = CliRunner().invoke(app, ["ui", str(tmp_path), "--port", "5999"]).output
    assert f":5999/#/experiments/{identity}?workflowType=machine_learning " in shown


def test_the_package_says_what_it_has() -> None:
    assert {"analyze", "load_network", "load_results", "measure"} <= set(dir(package))
    assert Path(package.__file__).with_name("py.typed").is_file()
