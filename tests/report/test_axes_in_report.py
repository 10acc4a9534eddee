"""Axes of a design as columns, strata, covariates and names, from the records to the report."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flatscale.measurement import Measurement
from flatscale.report.content.from_store import content_of_store
from flatscale.store.records import FAILED, Snapshot, TrialRecord
from flatscale.store.results import Store, load_results
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig
from tests.records_by_hand import record

OPTIMIZERS = ["sgd", {"label": "SGD m=0.9", "name": "sgd", "momentum": 0.9}]
WIDTHS, SIZES = [50, 100, 200], [60, 90]
AXES = ("optimizer", "width", "train_size", "seed_index")


def axes_study(**parts: Any) -> StudyConfig:
    design = {
        "axes": {
            "training.learning_rate": [0.1],
            "training.batch_size": ["full"],
            "training.optimizer": OPTIMIZERS,
            "model.options.width": WIDTHS,
            "data.train_size": SIZES,
        },
        "num_seeds": 4,
    }
    content = {
        "name": "axes",
        "models": [{"architecture": "mlp"}],
        "design": design,
        "measurement": {"metrics": ["mls", "sharpness", "test_accuracy"]},
        "analysis": {
            "primary": ["sharpness", "mls"],
            "covariates": ["optimizer", "model.options.width"],
            "outcomes": ["test_accuracy"],
            "num_resamples": 100,
        },
        **parts,
    }
    return parse_config(content)


def axes_record(spec: TrialSpec, values: dict[str, float]) -> TrialRecord:
    measured = tuple(Measurement(name=n, value=v, num_evaluations=1) for n, v in values.items())
    final = Snapshot(step=9, is_final=True, probe_hash="p", measurements=measured)
    return record(
        spec,
        batch_size=spec.num_points_a_step(spec.data.train_size or 0),
        train_size=spec.data.train_size,
        axes=json.dumps(spec.further_axes),
        snapshots=(final,),
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Every trial of the study with values in which each axis has its part."""
    study = axes_study()
    store = Store(tmp_path / "store")
    store.prepare(study)
    rng = np.random.default_rng(5)
    for index, spec in enumerate(plan(study)):
        level = 0.01 * WIDTHS[index // 2 % 3] + 2 * spec.training.optimizer.momentum
        x = level + rng.normal(0, 0.5)
        values = {"sharpness": x, "mls": x + rng.normal(0, 0.5)}
        store.write(axes_record(spec, {**values, "test_accuracy": 0.5 + 0.05 * rng.normal()}))
    return store


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def along(rows: list[dict[str, Any]], axis: str) -> list[list[dict[str, Any]]]:
    """The rows that agree in all other axes, by what they agree in."""
    others = [name for name in AXES if name != axis]
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in others), []).append(row)
    return list(groups.values())


def test_the_statistics_by_stratum_are_loops_over_the_axes(store: Store) -> None:
    content = content_of_store(store)
    rows = content.rows.to_dicts()
    assert content.hyperparameters == AXES
    assert content.analysis is not None
    tables = {
        name: content.analysis[name].filter(metric="sharpness", outcome="test_accuracy")
        for name in ("granulated", "mutual_information", "sign_errors")
    }

    def agreement(a: dict[str, Any], b: dict[str, Any]) -> int:
        gaps = (a[name] - b[name] for name in ("sharpness", "test_accuracy"))
        return int(np.prod([sign(gap) for gap in gaps]))

    psi = dict(tables["granulated"].select("hyperparameter", "estimate").iter_rows())
    for axis in AXES:
        taus = [
            np.mean([agreement(a, b) for a, b in itertools.permutations(group, 2)])
            for group in along(rows, axis)
        ]
        assert psi[axis] == pytest.approx(np.mean(taus)), axis
    given = set(tables["mutual_information"]["conditioned_on"])
    assert {"optimizer & width", "width & train_size", "optimizer", "minimum"} <= given
    # Environments: two settings of the three axes (without the seed) that differ in one of them.
    errors = []
    settings = {tuple(row[name] for name in AXES[:3]) for row in rows}
    for one, two in itertools.combinations(settings, 2):
        if sum(a != b for a, b in zip(one, two, strict=True)) == 1:
            sides = [[r for r in rows if tuple(r[n] for n in AXES[:3]) == s] for s in (one, two)]
            pairs = itertools.product(*sides)
            errors.append(np.mean([(1 - agreement(a, b)) / 2 for a, b in pairs]))
    summaries = dict(tables["sign_errors"].select("summary", "estimate").iter_rows())
    assert summaries["mean"] == pytest.approx(np.mean(errors))
    assert summaries["max"] == pytest.approx(max(errors))


def test_every_axis_is_a_column_of_the_table_and_of_the_report(store: Store) -> None:
    table = load_results(store.root).table()
    columns = ("training.optimizer", "model.options.width", "data.train_size")
    assert table.height == 48
    assert [table[name].dtype for name in columns] == [pl.String, pl.Int64, pl.Int64]
    assert set(table["training.optimizer"]) == {"sgd", "SGD m=0.9"}
    specs = {spec.trial_id: spec for spec in plan(axes_study())}
    for row in table.iter_rows(named=True):
        assert row["model.options.width"] == specs[row["trial_id"]].options["width"]
        assert row["batch_size"] == row["data.train_size"]
    content = content_of_store(store)
    assert set(content.rows["optimizer"]) == {"sgd", "SGD m=0.9"}
    assert content.rows["configuration"].n_unique() == 12
    assert content.rows["network"].unique().to_list() == ["mlp"]
    assert "optimizer SGD m=0.9 · width 50" in " ".join(content.rows["name"])
    assert content.analysis is not None
    assert content.analysis.design.covariates == ("optimizer", "width")
    findings = content.of_primary("findings").filter(method="partial")
    assert findings["estimate"].is_not_null().any()


def test_where_a_trial_is_follows_the_study_as_it_is_now(store: Store) -> None:
    # The old records have another label, or none; the ids are the same.
    specs = plan(axes_study())
    old = replace(axes_record(specs[0], {"mls": 1.0}), axes=None)
    gone = replace(axes_record(specs[1], {"mls": 1.0}), trial_id="gone", status=FAILED, reason="r")
    store.write(old)
    store.write(gone)
    table = load_results(store.root).table(all=True)
    by_id = {row["trial_id"]: row for row in table.iter_rows(named=True)}
    assert by_id[specs[0].trial_id]["training.optimizer"] == "sgd"
    assert by_id["gone"]["model.options.width"] == specs[1].axes["model.options.width"]
    flow = content_of_store(store).flow
    assert flow is not None
    assert flow.foreign["axes"].to_list() == [
        "training.optimizer=sgd, model.options.width=50, data.train_size=90"
    ]
    assert flow.unused.filter(trial_id=specs[0].trial_id)["axes"].to_list() == [
        "training.optimizer=sgd, model.options.width=50, data.train_size=60"
    ]


def test_an_axis_may_be_primary_and_on_a_log_scale(store: Store) -> None:
    analysis = {"primary": ["width", "mls"], "log": ["width"], "num_resamples": 100}
    study = axes_study(analysis=analysis)
    store.prepare(study)
    content = content_of_store(store)
    assert (content.primary, content.log) == (("width", "mls"), ("width",))
    assert content.rows.height == 48
    assert content.analysis is not None
    found = content.of_primary("findings").filter(scope="pooled", method="pearson")
    x, y = np.log10(content.rows["width"]), content.rows["mls"]
    assert found["estimate"].item() == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert content.provenance["config hash"] == study.content_hash
