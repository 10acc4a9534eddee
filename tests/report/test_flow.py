"""Where every planned trial ends."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from synthetic_study import fill_store, make_study

from flatscale.report.content.flow import Flow, trace_flow
from flatscale.study.plan import plan
from flatscale.study.schema import StudyConfig


def flow_of(root: Path, study: StudyConfig) -> Flow:
    return trace_flow(plan(study), fill_store(root, study, seed=2).read())


def with_analysis(study: StudyConfig, **changes: object) -> StudyConfig:
    analysis = study.analysis.model_copy(update=changes)
    return study.model_copy(update={"analysis": analysis})


def test_used_and_unused_make_up_the_plan(tmp_path: Path) -> None:
    study = make_study(num_snapshots=1)
    flow = flow_of(tmp_path, study)
    assert flow.count("planned") == len(flow.used) + flow.unused.height == len(plan(study))
    assert not set(flow.used) & set(flow.unused["trial_id"])


def test_the_step_limit_leaves_a_trial_out_only_where_the_study_says_so(tmp_path: Path) -> None:
    study = make_study(num_snapshots=1)
    lenient = flow_of(tmp_path / "lenient", study)
    strict = flow_of(tmp_path / "strict", with_analysis(study, require_interpolation=True))
    assert lenient.count("hit the step limit") == strict.count("hit the step limit") == 1
    assert len(lenient.used) == len(strict.used) + 1
    assert "step limit" in strict.unused["outcome"].to_list()


def test_a_primary_metric_that_was_not_measured_is_the_reason(tmp_path: Path) -> None:
    study = with_analysis(make_study(num_snapshots=1), primary=("sharpness", "weight_norm"))
    flow = flow_of(tmp_path, study)
    assert flow.used == ()
    reasons = flow.unused.filter(pl.col("outcome") == "not measured")["reason"].unique().to_list()
    assert reasons == ["no value of weight_norm: it was not measured"]


def test_a_hyperparameter_may_be_primary(tmp_path: Path) -> None:
    study = with_analysis(make_study(num_snapshots=1), primary=("learning_rate", "mls"))
    assert len(flow_of(tmp_path, study).used) == 37


def test_unconverged_trials_are_used_and_listed(tmp_path: Path) -> None:
    flow = flow_of(tmp_path, make_study(num_snapshots=1))
    assert flow.unconverged["metrics"].to_list() == ["sharpness"]
    assert set(flow.unconverged["trial_id"]) <= set(flow.used)
