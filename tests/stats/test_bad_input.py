"""Bad input: a clear error, or a null result with its reason; never NaN."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flatscale.errors import FlatscaleError, StatsError
from flatscale.stats import (
    FINDINGS_SCHEMA,
    Estimate,
    StudyDesign,
    analyze,
    analyze_study,
    correlate,
    family_scan,
    mantel,
    read_table,
    statistic,
)


def table(n: int = 12, **columns: list) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    made = {
        "trial_id": [f"t{k}" for k in range(n)],
        "family": ["a", "b", "c"] * (n // 3) + ["a"] * (n % 3),
        "x": rng.standard_normal(n).tolist(),
        "y": rng.standard_normal(n).tolist(),
    }
    return pl.DataFrame(made | columns, strict=False)


def written(suffix: str) -> bytes:
    buffer = io.BytesIO()
    (table().write_csv if suffix == ".csv" else table().write_parquet)(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_table_is_read_or_refused_in_one_line(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    content = bytearray(written(suffix))
    places = st.integers(0, len(content) - 1)
    for place, byte in data.draw(st.dictionaries(places, st.integers(0, 255), max_size=4)).items():
        content[place] = byte
    content[data.draw(places) :] = data.draw(st.one_of(st.just(content[-1:]), st.binary()))
    path = tmp_path / f"table{suffix}"
    path.write_bytes(content)
    try:
        refused = None if isinstance(read_table(path), pl.DataFrame) else "read as something else"
    except StatsError as error:
        refused = str(error)
    assert refused is None or refused.startswith(f"{path}: cannot be read as a table: ")
    assert refused is None or len(refused.splitlines()) == 1


def test_only_what_is_a_number_becomes_one(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    columns = {"a": ["١٢", "٣"], "b": ["+1,200", ".5"], "c": ["\x1c7", "1e3"], "d": ["e5", "1"]}
    pl.DataFrame(columns).write_parquet(path)
    numbers = {"b": [1200.0, 0.5], "c": [7.0, 1000.0]}
    assert read_table(path).to_dict(as_series=False) == columns | numbers


def test_a_missing_column_names_the_nearest_one() -> None:
    with pytest.raises(StatsError, match=r"no column 'shrpness' \(did you mean 'sharpness'"):
        analyze(table().rename({"x": "sharpness"}), "shrpness", "y")
    with pytest.raises(StatsError, match="no column 'family'"):
        analyze(table().drop("family"), "x", "y")
    with pytest.raises(StatsError, match="no column 'lr'"):
        analyze(table(), "x", "y", covariates=["lr"])
    assert issubclass(StatsError, FlatscaleError)


def test_a_text_column_is_refused() -> None:
    with pytest.raises(StatsError, match="'x' must hold numbers but has type String"):
        analyze(table(x=["1,000"] * 12), "x", "y")


def test_duplicate_labels_are_refused() -> None:
    with pytest.raises(StatsError, match=r"1 labels occur more than once \('t0'\)"):
        analyze(
            table(trial_id=["t0", "t0", *(f"t{k}" for k in range(2, 12))]),
            "x",
            "y",
            label="trial_id",
        )


def test_negative_standard_errors_are_refused() -> None:
    with pytest.raises(StatsError, match="1 are negative"):
        analyze(table(se=[-0.1] + [0.1] * 11), "x", "y", se_x="se")


def test_a_table_that_is_not_polars_is_refused() -> None:
    with pytest.raises(StatsError, match="polars DataFrame, found dict"):
        correlate({"x": [1]}, "x", "y")  # type: ignore[arg-type]


def test_unknown_methods_and_intervals_are_refused() -> None:
    with pytest.raises(StatsError, match="unknown statistic 'magic'; known: kendall"):
        correlate(table(), "x", "y", methods=["magic"])
    with pytest.raises(StatsError, match="'fisher' or 'bca', found 'exact'"):
        correlate(table(), "x", "y", interval="exact")
    with pytest.raises(StatsError, match="registered already"):
        statistic("pearson")(lambda x, y, confidence: Estimate(estimate=0.0))


def test_unusable_rows_are_left_out_and_listed() -> None:
    values = [1.0, math.nan, math.inf, None, -1.0, 0.0, 2.0, 3.0, 5.0, 4.0, 6.0, 8.0]
    family = [None, *"bcabcabcabc"]
    bad = table(x=values, family=family)
    design = StudyDesign(primary=("x", "y"), log=("x",))
    excluded = analyze_study(bad, design).excluded
    reasons = dict(zip(excluded["label"], excluded["reason"], strict=True))
    assert reasons == {
        "t0": "missing family",
        "t1": "missing or not a number",
        "t2": "infinite",
        "t3": "missing or not a number",
        "t4": "log10 of -1 does not exist",
        "t5": "log10 of 0 does not exist",
    }
    assert analyze(bad, "x", "y", log=["x"])["num_trials"][0] == 6


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"x": [3.0] * 12}, "x is constant"),
        ({"x": [1e9 + 1e-7 * k for k in range(12)]}, "x is constant"),
        ({"x": [None] * 12}, "0 usable rows"),
        ({"x": [1.0, 2.0, *[math.inf] * 10]}, "2 usable rows"),
    ],
)
def test_no_correlation_is_null_with_its_reason(changed: dict, reason: str) -> None:
    found = analyze(table(**changed), "x", "y")
    assert found["estimate"].is_null().all()
    assert found["reason"].str.contains(reason, literal=True).any()
    assert found["reason"].is_not_null().all()


def test_an_empty_table_is_null() -> None:
    found = analyze(table().clear(), "x", "y")
    assert found["estimate"].is_null().all()
    assert found["reason"].is_not_null().all()


def test_one_family_is_answered_over_its_rows() -> None:
    found = analyze(table(family=["only"] * 12), "x", "y")
    rows = {(r["scope"], r["method"]): r for r in found.to_dicts()}
    assert rows["pooled", "pearson"]["estimate"] is not None
    pooled = rows["pooled", "pearson_jackknife"]
    assert pooled["conf_low"] < pooled["estimate"] < pooled["conf_high"]
    assert "1 family, at least 3 needed" in rows["between", "pearson"]["reason"]
    # with a single family the within-family value is the pooled one
    within = rows["within", "pearson"]
    assert within["estimate"] == pytest.approx(rows["pooled", "pearson"]["estimate"])
    assert within["conf_low"] == pytest.approx(pooled["conf_low"])


def test_constant_inside_families() -> None:
    steps = table(x=[{"a": 1.0, "b": 2.0, "c": 3.0}[f] for f in table()["family"]])
    rows = {(r["scope"], r["method"]): r for r in analyze(steps, "x", "y").to_dicts()}
    assert "constant inside every family" in rows["within", "pearson"]["reason"]
    assert rows["between", "pearson"]["estimate"] is not None


def test_perfect_correlation_is_finite() -> None:
    found = analyze(table(y=table()["x"].to_list()), "x", "y")
    rows = {(r["scope"], r["method"]): r for r in found.to_dicts()}
    assert rows["pooled", "pearson"]["estimate"] == pytest.approx(1.0)
    assert rows["pooled", "pearson_jackknife"]["conf_low"] is None
    assert "perfect" in rows["pooled", "pearson_jackknife"]["reason"]


def test_family_names_are_carried_as_they_are() -> None:
    names = ["<script>alert(1)</script>", r"\input{x} 100% & $y_1^2$ #~", "a\nb"]
    odd = table(family=names * 4)
    found = analyze(odd, "x", "y")
    assert {f"family:{name}" for name in names} <= set(found["scope"])


def test_scan_says_why_it_did_not_scan() -> None:
    found = family_scan(table(), "x", "y")
    assert found["p_value"].is_null().all()
    assert found["reason"].str.contains("at least 20 needed").all()
    assert not found["flagged"].any()


def test_mantel_refuses_what_is_no_distance_matrix() -> None:
    with pytest.raises(StatsError, match="two equal squares"):
        mantel(np.zeros((3, 4)), np.zeros((3, 4)))
    with pytest.raises(StatsError, match="symmetric"):
        mantel(np.arange(16.0).reshape(4, 4), np.zeros((4, 4)))


WILD = st.one_of(
    st.none(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1.0, -1.0, 1e300, -1e300, 1e-300]),
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(st.tuples(WILD, WILD, st.sampled_from(["a", "b", "c", None])), max_size=25))
def test_anything_gives_finite_numbers_or_reasons(rows: list) -> None:
    wild = pl.DataFrame(
        rows, schema={"x": pl.Float64, "y": pl.Float64, "family": pl.String}, orient="row"
    )
    found = analyze(wild, "x", "y", num_resamples=49)
    assert found.schema == FINDINGS_SCHEMA
    numbers = found.select(pl.selectors.float())
    assert not any(column.is_nan().any() or column.is_infinite().any() for column in numbers)
    assert found.filter(pl.col("estimate").is_null())["reason"].is_not_null().all()
