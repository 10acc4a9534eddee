"""The specification curve against the statistics it repeats, and its permutation test."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from flatscale.errors import StatsError
from flatscale.metrics import metric_catalog, metric_info
from flatscale.stats import (
    StudyDesign,
    analyze_study,
    correlation_of,
    family_jackknife,
    per_family,
    select_pair,
    synthesize,
    within_family,
)
from flatscale.stats.design import declared_variants
from flatscale.stats.estimators.specification_curve import (
    curve_test,
    point_of_jackknife,
    point_of_synthesis,
)
from flatscale.stats.estimators.synthesis import fisher_z
from flatscale.stats.study import StudyData
from flatscale.stats.tables.specifications import specifications
from tests.calibration.correlation_rows import plain, power, replicated
from tests.calibration.harness import Simulated


def as_table(made: Simulated) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "x": made.x,
            "y": made.y,
            "family": [f"f{code}" for code in made.family],
            "cell": made.configuration if made.configuration is not None else range(len(made.x)),
            "trial_id": [f"t{k}" for k in range(len(made.x))],
        }
    )


def design_of(made: Simulated, **more) -> StudyDesign:
    cell = ("cell",) if made.configuration is not None else ()
    return StudyDesign(primary=("x", "y"), configuration=cell, num_resamples=100, **more)


@pytest.mark.parametrize(
    "generate",
    [plain, power(0.3), replicated(12, 4, 2), replicated(2, 9, 3, r=0.5), replicated(1, 9, 3)],
)
def test_declared_specifications_are_the_headline(generate) -> None:
    for seed in range(3):
        made = generate(np.random.default_rng(seed))
        design, table = design_of(made), as_table(made)
        sample = select_pair(
            table, "x", "y", family="family", configuration=design.configuration, label="trial_id"
        )
        rows = StudyData(table, design)
        found = {s.choices["scope"]: s for s in specifications(rows) if s.choices["declared"]}
        for scope, known in (
            ("pooled", family_jackknife(sample)),
            ("within", within_family(sample)),
        ):
            point = found[scope].point
            if known.estimate is None:
                assert not np.isfinite(point.std_error[0])
                continue
            assert np.tanh(point.z[0]) == pytest.approx(known.estimate)
            assert point.interval(0.95) == pytest.approx((known.conf_low, known.conf_high))
            assert (known.p_value is None) == np.isnan(point.p_value[0])
            if known.p_value is not None:
                assert point.p_value[0] == pytest.approx(known.p_value)
            assert found[scope].units.level == known.units
        _, z, variance, _ = fisher_z(per_family(sample))
        if len(z) > 1:
            mean, point = synthesize(z, variance), found["synthesis"].point
            assert point.z[0] == pytest.approx(mean.z, abs=1e-8)
            assert point.std_error[0] == pytest.approx(mean.std_error, abs=1e-8)


def test_many_columns_at_once_are_each_alone() -> None:
    made = power(0.3)(np.random.default_rng(4))
    rng = np.random.default_rng(5)
    y = np.stack([made.y, *(rng.permutation(made.y) for _ in range(3))])
    whole = np.zeros(len(made.x), dtype=np.int64)
    for strata, units in ((whole, made.family), (made.family, made.family)):
        together = point_of_jackknife(made.x, y, strata, units)
        alone = [point_of_jackknife(made.x, line[None], strata, units) for line in y]
        for name in ("z", "std_error", "p_value"):
            parts = [getattr(point, name)[0] for point in alone]
            assert getattr(together, name) == pytest.approx(parts)
    together = point_of_synthesis(made.x, y, made.family)
    parts = [point_of_synthesis(made.x, line[None], made.family).z[0] for line in y]
    assert together.z == pytest.approx(parts)


def multiverse_p(made: Simulated) -> dict:
    frame = analyze_study(as_table(made), design_of(made)).multiverse_summary
    return frame.row(0, named=True)


def test_the_curve_is_tested_as_a_whole() -> None:
    strong = multiverse_p(power(0.5)(np.random.default_rng(0)))
    assert strong["p_median"] <= 0.02
    assert strong["p_significant"] <= 0.02
    assert strong["share_sign"] > 0.8
    assert strong["lowest"] <= strong["median"] <= strong["highest"]
    assert strong["num_shuffles"] == 100


@pytest.mark.parametrize("num_tables", [12, pytest.param(400, marks=pytest.mark.slow)])
def test_the_permutation_test_keeps_its_level(num_tables: int) -> None:
    rejected = np.zeros(3)
    for seed in range(num_tables):
        made = plain(np.random.default_rng(1000 + seed))
        study = StudyData(as_table(made), design_of(made))
        points = [s.point for s in specifications(study)]
        found = curve_test(points, 0.05)
        rejected += [p <= 0.05 for p in (found.p_median, found.p_sign, found.p_significant)]
    slack = 3 * np.sqrt(0.05 * 0.95 / num_tables)
    assert (rejected / num_tables <= 0.05 + slack).all()


def test_choices_are_named_and_counted() -> None:
    made = power(0.3)(np.random.default_rng(7))
    rng = np.random.default_rng(8)
    n = len(made.x)
    table = as_table(made).with_columns(
        y=pl.col("y").exp(),
        error=-pl.col("y") + pl.Series(0.1 * rng.standard_normal(n)),
        dataset=pl.Series([f"d{k % 3}" for k in range(n)]),
        y__converged=pl.Series(rng.random(n) > 0.2),
    )
    design = design_of(made, outcomes=("y", "error"), subsets=("dataset",), log=("y",))
    found = analyze_study(table, design).multiverse
    assert set(found["outcome"]) == {"y", "error (-)"}
    assert set(found["families"]) == {"family", "dataset", "none"}
    assert {"all", "converged only", "one per family"} <= set(found["rows"])
    assert set(zip(found["scale_x"], found["scale_y"], strict=True)) == {
        ("raw", "raw"), ("raw", "log"), ("rank", "rank"),
    }  # fmt: skip
    declared = found.filter("declared")
    assert declared["scope"].to_list() == ["pooled", "within", "synthesis"]
    assert set(declared["scale_y"]) == {"log"}
    turned = found.filter(outcome="error (-)", rows="all", scope="pooled", scale_y="raw")
    assert (turned["estimate"] > 0).all()
    assert found.filter(pl.col("estimate").is_null())["reason"].is_not_null().all()
    assert found.filter(rows="converged only")["num_trials"].max() < n


def test_options_of_a_measure_are_choices() -> None:
    made = power(0.3)(np.random.default_rng(10))
    table = as_table(made).with_columns(
        x_wide=pl.col("x") + 0.1 * pl.col("y"), y_wide=-pl.col("y"), error=pl.col("y") ** 3
    )
    variants = {"x": ("x_wide",), "y_wide": ("y",)}
    design = design_of(made, variants=variants, outcomes=("y", "error"))
    found = analyze_study(table, design)
    curve = found.multiverse.filter(~pl.col("rows").str.starts_with("family:"))
    columns = set(curve.select("metric", "outcome").iter_rows())
    # a variant of y keeps its own sign; another outcome is turned to go with y
    outcomes = ("y", "y_wide", "error")
    assert columns == {(a, b) for a in ("x", "x_wide") for b in outcomes}
    assert set(curve.filter("declared").select("metric", "outcome").iter_rows()) == {("x", "y")}
    alone = correlation_of(table, "x_wide", "y_wide", family="family")
    same = {"metric": "x_wide", "outcome": "y_wide", "rows": "all", "scope": "pooled"}
    row = curve.filter(scale_x="raw", scale_y="raw", families="family", **same).row(0, named=True)
    assert row["estimate"] == pytest.approx(alone.estimate)
    assert row["conf_low"] == pytest.approx(alone.conf_low)
    assert found.multiverse_summary["num_specifications"][0] == curve["estimate"].count()
    # of two variants of one measure neither stands for the other
    crossed = analyze_study(table, design_of(made, variants={"x": ("y", "x_wide")})).multiverse
    assert set(crossed["metric"]) == {"x"}
    with pytest.raises(StatsError, match="no column 'x_far'"):
        analyze_study(table, design_of(made, variants={"x": ("x_far",)}))


def test_metrics_say_of_which_they_are_a_variant() -> None:
    catalog = [
        {"name": "mls"}, {"name": "finite_mls", "variant_of": "mls"},
        {"name": "log_nvr", "variant_of": "log_lvr"},
    ]  # fmt: skip
    columns = ("mls", "finite_mls", "log_nvr", "mine")
    found = declared_variants(catalog, columns, {"mls": ["mine"]})
    assert found == {"mls": ("mine", "finite_mls")}
    for info in metric_catalog():
        if info.variant_of:
            base = metric_info(info.variant_of)
            assert base.variant_of is None
            assert base.group == info.group
    assert metric_info("finite_mls").variant_of == "mls"


def test_without_families_the_units_are_rows() -> None:
    made = plain(np.random.default_rng(9))
    design = StudyDesign(primary=("x", "y"), family=None, num_resamples=100)
    study = analyze_study(as_table(made), design)
    assert set(study.multiverse["families"]) == {"none"}
    assert set(study.multiverse["scope"]) == {"pooled"}
    constant = as_table(made).with_columns(y=pl.lit(1.0))
    empty = analyze_study(constant, design).multiverse_summary.row(0, named=True)
    assert empty["num_specifications"] == 0
    assert "constant" in empty["reason"]
