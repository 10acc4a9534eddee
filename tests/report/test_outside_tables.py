"""What a user's own table may hold: each oddity is refused or said, with its row and its value."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from flatscale.cli.commands import app
from flatscale.errors import StatsError
from flatscale.stats import analyze, read_table
from flatscale.stats.column_roles import column_roles
from flatscale.store.results import Store, load_results
from flatscale.study.plan import plan
from tests.records_by_hand import record, study

pytestmark = pytest.mark.usefixtures("figures_undrawn")

TIMM = Path(__file__).parents[3] / "shared" / "data" / "timm_results"
N = 24


def written(path: Path, **changed: Any) -> Path:
    """A CSV file of 24 networks in 6 families; the values of x, y, ... may be any text."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=N)
    columns = {
        "model": [f"{'abcdef'[k % 6]}_{k}" for k in range(N)],
        "x": x,
        "y": x + rng.normal(size=N),
        "se": [0.1] * N,
        "kind": ["abcdef"[k % 6] for k in range(N)],
        **changed,
    }
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def spoiled(value: Any, row: int = 7) -> list[Any]:
    """24 numbers, one of which is something else; rows count from 1."""
    return [value if k == row - 1 else k / 7 for k in range(N)]


def run(path: Path, *arguments: str) -> dict[str, Any]:
    out = path.parent / "out"
    command = ["analyze", str(path), "--x", "x", "--y", "y", "--out", str(out), *arguments]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads((out / "findings.json").read_text())


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ({"x": spoiled("NA")}, [], r"'x' must hold numbers .* row 7 holds 'NA', one of 1 such"),
        ({"y": spoiled("high")}, [], r"'y' must hold numbers .* row 7 holds 'high'"),
        ({"x": [f"0,{100 + k}" for k in range(N)]}, [], r"row 1 holds '0,100' \(a decimal comma"),
        ({"se": spoiled("about 0.1")}, ["--se-x", "se"], r"'se' .* row 7 holds 'about 0.1'"),
        ({"se": spoiled(-0.5)}, ["--se-y", "se"], r"1 are negative, the first in row 7: -0.5"),
        ({"se": [True] * N}, ["--se-x", "se"], "'se' must hold standard errors but holds true"),
        ({}, ["--family-from", "model", "--family-pattern", "net"], "matches none of the 24 names"),
        ({"x": [1e-305 * k for k in range(N)]}, [], r"'x' is at most 2\.3e-304 in size, too small"),
        ({"x": [1e-320 * k for k in range(N)]}, [], "'x' is at most .* multiply it"),
        ({"y": [10.0 ** (20 * k - 300) for k in range(N)]}, [], "100 orders of magnitude"),
        ({"name": range(N)}, ["--family", "name"], "'name' can only name the rows"),
    ],
)
def test_what_cannot_be_analysed_is_refused_by_row_and_value(
    tmp_path: Path, changed: dict[str, Any], arguments: list[str], message: str
) -> None:
    path = written(tmp_path / "table.csv", **changed)
    with pytest.raises(StatsError, match=message) as refused:
        run(path, *arguments)
    assert "read_outcomes" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "arguments", "note"),
    [
        ({"x": spoiled("NaN")}, [], "1 of 24 rows are left out of x against y. Row 7: x is NaN."),
        ({"x": spoiled("-inf")}, ["--label", "model"], "Row 7 (a_6): x is -inf."),
        ({"x": spoiled("")}, [], "Row 7: x is missing."),
        ({"x": spoiled(-2.0)}, ["--log", "x"], "Row 1: x is 0 (no log10); row 7: x is -2 (no"),
        ({"kind": spoiled("", 3)}, ["--family", "kind"], "Row 3: kind is missing."),
        ({"se": spoiled("inf")}, ["--se-x", "se"], "no usable standard error in se and count"),
        ({"model": [f"{'a' if k else 9}{k}" for k in range(N)]}, ["--family-from", "model"], "90"),
        (
            {"x": [1] * 20 + [2] * 4, "y": [3] * 12 + [4] * 12, "model": "a" * N},
            [],
            "1 = 7; 2 = 8;",
        ),
    ],
)
def test_what_is_left_out_or_repeated_is_said_by_row_and_value(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, Any],
    arguments: list[str],
    note: str,
) -> None:
    found = run(written(tmp_path / "table.csv", **changed), *arguments)
    assert note in " ".join(found["notes"])
    assert note in caplog.text


@pytest.mark.parametrize(
    "changed",
    [
        {"x": [k % 3 > 0 for k in range(N)]},
        {"kind": [k % 2 > 0 for k in range(N)]},
        {"kind": [k % 6 for k in range(N)]},
        {"x": [10**25 + k * 10**20 for k in range(N)]},
        {"x": [10**45 + k * 10**40 for k in range(N)]},
    ],
    ids=["true and false", "boolean family", "numbered family", "beyond 64 bits", "beyond 128"],
)
def test_columns_of_any_type_are_analysed(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = written(tmp_path / "table.csv", **changed)
    found = run(path, "--family", "kind")
    r = next(row for row in found["tables"]["findings"] if row["method"] == "pearson")["estimate"]
    table = read_table(path)
    x = np.array([float(v) for v in changed.get("x", table["x"])])
    assert r == pytest.approx(np.corrcoef(x, table["y"])[0, 1], rel=1e-9)


def test_commas_that_may_be_decimal_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sure = {"x": [f"{k + 1},000.5" for k in range(N)], "y": [f"{k + 1},234,567" for k in range(N)]}
    assert read_table(written(tmp_path / "a.csv", **sure))["x"][1] == 2000.5
    assert not caplog.records
    read_table(written(tmp_path / "b.csv", x=[f"{k + 1},250" for k in range(N)]))
    assert "'1,250' is read as 1250; if its commas are decimal" in caplog.text


def test_the_roles_of_columns() -> None:
    rng = np.random.default_rng(0)
    numbers = ("acc", "acc_err", "se_acc", "acc_low", "acc_high", "low_frequency", "test_error")
    numbers += ("conf_low", "ece_std", "run_id", "size_outcome", "depth_outcome")
    table = pl.DataFrame({name: rng.normal(size=9) for name in numbers}).with_columns(
        pl.col("size_outcome").alias("size"),
        pl.col("size_outcome").alias("depth"),
        order=pl.int_range(1, 10),
        note=pl.lit("text"),
        flag=pl.lit(True),
        same=pl.lit(3.0),
    )
    added = [*numbers, "order", "note", "flag", "same"]
    renamed = {"size_outcome": "size", "depth_outcome": "depth"}
    roles = column_roles(table, added, keys=["model"], renamed=renamed)
    assert roles.outcomes == ("acc", "low_frequency", "test_error", "depth_outcome")
    assert roles.others == {
        "name the rows": ("model",),
        "called like standard errors": ("acc_err", "se_acc", "ece_std"),
        "called like ends of intervals": ("acc_low", "acc_high", "conf_low"),
        "called like identifiers": ("run_id",),
        "repeat the table's own column of that name": ("size_outcome",),
        "number the rows": ("order",),
        "hold no numbers": ("note",),
        "hold true and false": ("flag",),
        "hold one value only": ("same",),
    }


def test_outcomes_are_found_said_and_may_be_chosen(tmp_path: Path) -> None:
    path = written(tmp_path / "table.csv")
    score = {"score": [k * k for k in range(N)], "score_err": [k % 5 for k in range(N)]}
    other = written(tmp_path / "other.csv", **score)
    arguments = ["--outcomes", str(other), "--on", "model", "--family-from", "model"]
    found = run(path, *arguments)
    assert {row["y"] for row in found["tables"]["outcome_associations"]} == {"score"}
    said = "taken as outcomes: score; not taken: model (name the rows); x_outcome, y_outcome"
    assert said in " ".join(found["notes"])
    found = run(path, *arguments, "--outcome", "score_err")
    assert {row["y"] for row in found["tables"]["outcome_associations"]} == {"score_err"}
    nothing = read_table(path).select("model", note=pl.lit("none"))
    nothing.write_csv(other)
    with pytest.raises(StatsError, match="taken as outcomes: none"):
        run(path, *arguments)


@pytest.mark.skipif(not TIMM.is_dir(), reason="timm's published results are not here")
def test_neither_keys_nor_errors_are_outcomes_in_the_example_of_the_readme(tmp_path: Path) -> None:
    table = read_table(TIMM / "results-imagenet.csv").head(60)
    table.rename({"param_count": "x", "top1": "y"}).write_csv(tmp_path / "table.csv")
    arguments = ["--outcomes", str(TIMM / "results-imagenet-a.csv"), "--on", "model,img_size"]
    found = run(tmp_path / "table.csv", "--family-from", "model", "--log", "x", *arguments)
    outcomes = {row["y"] for row in found["tables"]["outcome_associations"]}
    assert not {name for name in outcomes if "err" in name or "img_size" in name}
    assert {"top1", "top1_diff", "rank_diff"} <= outcomes


def test_analyze_says_what_it_leaves_out_and_which_networks_stand_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "store")
    for metrics in (["mls"], ["mls", "sharpness"]):
        config = study(measurement={"metrics": metrics})
        store.prepare(config)
        for spec in plan(config):
            store.write(record(spec, network_id=spec.network_id))
    results = load_results(tmp_path / "store")
    analyze(results.table(), "mls", "sharpness", num_resamples=99)
    assert not caplog.records
    twice = results.table(all=True).sort("network_id")
    analyze(twice, "mls", "sharpness", num_resamples=99)
    assert "equal in network_id count as different networks: 1 = 2; 3 = 4;" in caplog.text
