"""A whole study: every table has its columns, and the tables agree with each other."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flatscale.errors import StatsError
from flatscale.stats import (
    TABLES,
    StudyAnalysis,
    StudyDesign,
    analyze,
    analyze_study,
    family_from_name,
    join_outcomes,
    read_table,
)

TIMM = Path(__file__).resolve().parents[3] / "shared" / "data" / "timm_results"


def study_table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"lr": lr, "width": width, "seed": seed, "family": f"f{family}", "level": family}
        for family in range(6)
        for lr in (0.01, 0.1)
        for width in (10, 20)
        for seed in range(4)
    ]
    table = pl.DataFrame(rows)
    n = table.height
    signal = table["level"].to_numpy() * 0.2 + rng.standard_normal(n)
    sharpness = np.exp(signal + 0.3 * rng.standard_normal(n))
    mls = np.exp(0.5 * signal + 0.3 * rng.standard_normal(n))
    # four rows of one family far above the line
    mls[:4] *= 60
    error = np.clip(0.2 + 0.05 * signal + 0.05 * rng.standard_normal(n), 0, 1)
    return table.with_columns(
        trial_id=pl.Series([f"t{k:03d}" for k in range(n)]),
        sharpness=pl.Series(sharpness),
        mls=pl.Series(mls),
        noise=pl.Series(rng.standard_normal(n)),
        test_error=pl.Series(error),
        mls_bound=pl.Series(mls * rng.uniform(0.99, 3, n)),
        sharpness__std_error=pl.Series(0.1 * sharpness),
        mls__std_error=pl.Series(0.1 * mls),
        mls__converged=pl.Series(rng.random(n) > 0.1),
    )


DESIGN = StudyDesign(
    primary=("sharpness", "mls"),
    metrics=("noise",),
    pairs=(("noise", "mls"),),
    log=("sharpness", "mls"),
    covariates=("lr", "family"),
    outcomes=("test_error",),
    hyperparameters=("lr", "width", "seed", "family"),
    subsets=("lr",),
    bounds=(("mls_bound", "mls"),),
    num_test_samples=1000,
    num_resamples=499,
)


@pytest.fixture(scope="module")
def study() -> StudyAnalysis:
    return analyze_study(study_table(), DESIGN)


def test_every_table_has_its_columns_and_rows(study: StudyAnalysis) -> None:
    for name, frame in study.items():
        assert frame.schema == TABLES[name].schema, name
        assert not any(
            column.is_nan().any() or column.is_infinite().any()
            for column in frame.select(pl.selectors.float())
        ), name
        if name != "excluded":
            assert frame.height, name


def test_a_null_estimate_always_has_a_reason(study: StudyAnalysis) -> None:
    for name, frame in study.items():
        if {"estimate", "reason"} <= set(frame.columns):
            assert frame.filter(pl.col("estimate").is_null())["reason"].is_not_null().all(), name


def test_the_planted_cluster_is_found_and_its_removal_shown(study: StudyAnalysis) -> None:
    flagged = study.clusters.filter((pl.col("x") == "sharpness") & pl.col("flagged"))
    assert flagged["family"].to_list() == ["f0"]
    assert flagged["side"].to_list() == ["above"]
    assert set(flagged["members"][0]) == {"t000", "t001", "t002", "t003"}
    residuals = study.residuals.filter((pl.col("x") == "sharpness") & pl.col("flagged"))
    assert set(residuals["label"]) == set(flagged["members"][0])
    effects = study.cluster_effects.filter(
        (pl.col("x") == "sharpness")
        & (pl.col("scope") == "pooled")
        & (pl.col("method") == "pearson")
    )
    with_all, without = (
        effects.filter(pl.col("removed") == removed).row(0, named=True)
        for removed in ("none", "f0 (above)")
    )
    assert without["num_removed"] == 4
    assert without["num_trials"] == with_all["num_trials"] - 4
    assert without["estimate"] > with_all["estimate"] + 0.1


def test_the_primary_pair_is_not_corrected_and_the_others_are(study: StudyAnalysis) -> None:
    pooled = study.findings.filter(
        (pl.col("scope") == "pooled") & (pl.col("method") == "pearson_jackknife")
    )
    primary = (pl.col("x") == "sharpness") & (pl.col("y") == "mls")
    assert pooled.filter(primary)["q_value"].is_null().all()
    others = pooled.filter(~primary)
    assert others.height == 2
    assert (others["q_value"] >= others["p_value"]).all()


def test_findings_of_the_study_are_those_of_analyze(study: StudyAnalysis) -> None:
    alone = analyze(
        study_table(), "sharpness", "mls", log=DESIGN.log, covariates=DESIGN.covariates,
        se_x="sharpness__std_error", se_y="mls__std_error", num_resamples=499,
    )  # fmt: skip
    together = study.findings.filter((pl.col("x") == "sharpness") & (pl.col("y") == "mls"))
    keys = ["scope", "method", "estimate", "conf_low", "conf_high", "p_value"]
    assert (
        together.select(keys)
        .sort("scope", "method")
        .equals(alone.select(keys).sort("scope", "method"))
    )


def test_tables_agree_with_each_other(study: StudyAnalysis) -> None:
    pearson = study.findings.filter(
        (pl.col("x") == "sharpness")
        & (pl.col("scope") == "pooled")
        & (pl.col("method") == "pearson")
        & (pl.col("y") == "mls")
    ).row(0, named=True)  # fmt: skip
    declared = study.multiverse.filter(
        pl.col("declared") & (pl.col("scope") == "pooled") & (pl.col("method") == "pearson")
    )
    assert declared["estimate"].to_list() == pytest.approx([pearson["estimate"]], abs=1e-12)
    cell = study.matrix.filter((pl.col("x") == "sharpness") & (pl.col("y") == "mls"))
    assert cell["r"].to_list() == [pearson["estimate"]]
    weights = study.family_correlations.filter(pl.col("x") == "sharpness")["weight"]
    assert weights.sum() == pytest.approx(1)
    assert set(study.multiverse["rows"]) >= {
        "all", "without clusters", "converged only", "one per family", "family:f0",
    }  # fmt: skip
    assert study.leave_one_out.filter(pl.col("x") == "sharpness").height == 6
    band = study.line_band.filter(pl.col("x") == "sharpness")
    assert (band["band_low"] <= band["y_value"]).all()
    assert (band["y_value"] <= band["band_high"]).all()


def test_bounds_count_violations(study: StudyAnalysis) -> None:
    table, row = study_table(), study.bounds.row(0, named=True)
    assert row["num_violations"] == int((table["mls"] > table["mls_bound"]).sum())
    ratio = np.log10(table["mls_bound"].to_numpy() / table["mls"].to_numpy())
    assert row["median_log10_ratio"] == pytest.approx(np.median(ratio))


def test_reliability_is_on_the_scale_analysed(study: StudyAnalysis) -> None:
    row = study.reliability.filter(pl.col("metric") == "mls").row(0, named=True)
    error = 0.1 / math.log(10)
    assert row["mean_squared_error"] == pytest.approx(error**2)
    assert row["reliability"] == pytest.approx(1 - error**2 / row["std_dev"] ** 2)
    assert row["num_unconverged"] == int((~study_table()["mls__converged"]).sum())


def test_the_same_seed_gives_the_same_study(study: StudyAnalysis) -> None:
    again = analyze_study(study_table(), DESIGN)
    for name, frame in study.items():
        assert frame.equals(again[name]), name


def test_a_study_of_two_trials_is_all_reasons() -> None:
    small = analyze_study(study_table().head(2), DESIGN)
    assert small.findings["estimate"].is_null().all()
    assert small.residuals.is_empty()
    for name, frame in small.items():
        assert frame.schema == TABLES[name].schema, name


def test_a_design_naming_a_missing_column_is_refused() -> None:
    with pytest.raises(StatsError, match="no column 'test_err' \\(did you mean 'test_error'"):
        analyze_study(
            study_table(), StudyDesign(primary=("sharpness", "mls"), outcomes=("test_err",))
        )
    with pytest.raises(StatsError, match="two different columns"):
        analyze_study(study_table(), StudyDesign(primary=("mls", "mls")))


def test_joining_outcomes_reports_what_matched() -> None:
    left = pl.DataFrame({"model": ["a", "b", "b", "z", None], "top1": [1.0, 2, 3, 4, 5]})
    right = pl.DataFrame({"name": ["a", "b", "q"], "top1": [10.0, 20, 30]})
    found = join_outcomes(left, right, "model", outcomes_on="name")
    assert found.table["top1_outcome"].to_list() == [10.0, 20.0, 20.0, None, None]
    assert (found.num_matched, found.unmatched, found.unused) == (3, ("z",), ("q",))
    assert found.renamed == {"top1": "top1_outcome"}
    with pytest.raises(StatsError, match="no value of 'model' occurs"):
        join_outcomes(left, pl.DataFrame({"model": ["A"], "v": [1]}), "model")


def test_repeated_names_are_told_apart_by_a_common_column_or_left_out() -> None:
    left = pl.DataFrame({"model": ["a", "a", "b"], "size": [224, 288, 224], "top1": [1.0, 2, 3]})
    right = pl.DataFrame(
        {"model": ["a", "a", "b"], "size": [288, 224, 224], "top1": [20.0, 10, 30]}
    )
    found = join_outcomes(left, right, "model")
    assert found.keys == ("model", "size")
    assert found.table["top1_outcome"].to_list() == [10.0, 20.0, 30.0]
    vague = join_outcomes(left, right.drop("size"), "model")
    assert vague.ambiguous == ("a",)
    assert vague.table["top1_outcome"].to_list() == [None, None, 30.0]
    assert "1 names have several outcomes" in vague.summary()


def test_numbers_written_as_text_are_read(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.csv"
    path.write_text('model,params,diff,note\na,"1,014.45",+2,x\nb,305.08,-1.5,3 y\nc,,0,\n')
    found = read_table(path)
    assert found["params"].to_list() == [1014.45, 305.08, None]
    assert found["diff"].to_list() == [2.0, -1.5, 0.0]
    assert found["note"].dtype == pl.String
    with pytest.raises(StatsError, match="no such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(StatsError, match=r"must end in \.csv or \.parquet"):
        read_table(tmp_path / "table.xlsx")


def test_families_from_names() -> None:
    names = pl.DataFrame({"model": ["resnet50.a1", "eva02_large", "vit_base", "3dnet", None]})
    assert family_from_name(names, "model")["family"].to_list() == [
        "resnet",
        "eva",
        "vit",
        "3dnet",
        None,
    ]
    custom = family_from_name(names, "model", pattern=r"^([a-z0-9]+)[_.]")
    assert custom["family"].to_list() == ["resnet50", "eva02", "vit", "3dnet", None]
    with pytest.raises(StatsError, match="not a regular expression"):
        family_from_name(names, "model", pattern="(")


@pytest.mark.skipif(not TIMM.is_dir(), reason="timm's results are not beside the checkout")
def test_timm_results_join_and_correlate() -> None:
    clean = family_from_name(read_table(TIMM / "results-imagenet.csv"), "model")
    shifted = read_table(TIMM / "results-imagenetv2-matched-frequency.csv")
    assert clean["param_count"].dtype == pl.Float64
    joined = join_outcomes(clean, shifted, "model")
    assert joined.keys == ("model", "img_size")
    assert joined.num_matched > 1500
    assert joined.num_matched + len(joined.unmatched) == clean.height
    found = analyze(joined.table, "top1", "top1_outcome", num_resamples=199)
    rows = {(r["scope"], r["method"]): r for r in found.to_dicts()}
    assert rows["pooled", "pearson_jackknife"]["estimate"] > 0.9
    assert rows["within", "pearson"]["estimate"] > 0.9
    assert rows["synthesis", "reml"]["num_families"] > 30


def test_statistics_import_no_training_stack() -> None:
    code = (
        "import sys, flatscale.stats; "
        "print([m for m in ('torch', 'ray', 'mlflow', 'pingouin') if m in sys.modules])"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
