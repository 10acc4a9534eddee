"""A report of a table that flatscale did not make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flatscale.errors import StatsError
from flatscale.report import write_table_report
from flatscale.stats import family_from_name, read_table

TIMM = Path(__file__).parents[3] / "shared" / "data" / "timm_results"

pytestmark = pytest.mark.usefixtures("figures_undrawn")


@pytest.fixture
def table() -> pl.DataFrame:
    rng = np.random.default_rng(4)
    families = np.repeat(["a", "b<i>", "c_%", "d"], 12)
    x = rng.normal(size=48) + np.repeat([0.0, 0.5, 1.0, 1.5], 12)
    return pl.DataFrame(
        {
            "model": [f"{family}{i}" for i, family in enumerate(families)],
            "family": families,
            "size": np.exp(x),
            "a.b[0]": 2 * x + rng.normal(size=48) * 0.3,
            "se": np.full(48, 0.3),
            "depth": rng.integers(1, 5, 48),
        }
    )


def write(table: pl.DataFrame, out: Path, **options: object) -> dict[str, object]:
    chosen = {"x": "size", "y": "a.b[0]", "num_resamples": 100, **options}
    paths = write_table_report(table, out=out, **chosen)
    return {"page": paths.page.read_text(), **json.loads(paths.findings.read_text())}


def assert_drawn(out: Path) -> None:
    drawn = {(path.suffix, path.read_bytes()[:4]) for path in (out / "figures").iterdir()}
    assert drawn == {(".svg", b"<svg"), (".pdf", b"%PDF")}


def test_the_family_may_stand_in_any_column(table: pl.DataFrame, tmp_path: Path) -> None:
    document = write(table.rename({"family": "kind"}), tmp_path, family="kind")
    named = {row["family"] for row in document["tables"]["family_correlations"]}
    assert named == set(table["family"])


def test_a_glossary_says_what_the_columns_are(table: pl.DataFrame, tmp_path: Path) -> None:
    known = [
        {"name": "size", "meaning": "How large it is", "formula": "sum 1", "unit": "points"},
        {"name": "elsewhere", "meaning": "Not a column here", "formula": "0", "unit": "1"},
    ]
    (tmp_path / "glossary.json").write_text(json.dumps(known))
    document = write(table, tmp_path / "out", glossary=tmp_path / "glossary.json")
    assert "How large it is" in document["page"]
    assert "size [points]" in document["page"]
    assert "Not a column here" not in document["page"]


def test_the_pair_is_found_with_and_without_families(table: pl.DataFrame, tmp_path: Path) -> None:
    alone = write(table, tmp_path / "alone", log=["size"])
    grouped = write(table, tmp_path / "grouped", log=["size"], family="family", se_y="se")
    for document in (alone, grouped):
        found = [r for r in document["tables"]["findings"] if r["method"] == "pearson"]
        x = np.log10(table["size"].to_numpy())
        expected = np.corrcoef(x, table["a.b[0]"].to_numpy())[0, 1]
        assert found[0]["estimate"] == pytest.approx(expected, abs=1e-9)
    assert "jackknife" not in {r["method"].rpartition("_")[2] for r in alone["tables"]["findings"]}
    assert "jackknife" in {r["method"].rpartition("_")[2] for r in grouped["tables"]["findings"]}
    assert "b&lt;i&gt;" in grouped["page"]


@pytest.mark.parametrize("family", [None, "family"])
def test_replicates_are_one_configuration(
    table: pl.DataFrame, tmp_path: Path, family: str | None
) -> None:
    one = table.filter(family="a").with_columns(rate=pl.int_range(12) // 3)
    document = write(one, tmp_path, family=family, configuration=["rate"])
    rows = {(r["scope"], r["method"]): r for r in document["tables"]["findings"]}
    pooled = rows["pooled", "pearson_jackknife"]
    assert (pooled["units"], pooled["num_units"]) == ("configurations", 4)
    assert pooled["conf_low"] < pooled["estimate"] < pooled["conf_high"]
    assert "the 4 configurations, not their seeds, count as independent" in document["page"]


def test_joined_outcomes_say_what_matched(table: pl.DataFrame, tmp_path: Path) -> None:
    outcomes = pl.DataFrame(
        {"model": [*table["model"][:40], "stranger"], "score": np.linspace(0, 1, 41)}
    )
    document = write(table, tmp_path, family="family", outcomes=outcomes, on="model")
    notes = " ".join(document["notes"])
    assert "40 of 48 rows have an outcome" in notes
    assert table["model"][40] in notes
    assert "stranger" in notes
    assert {row["y"] for row in document["tables"]["outcome_associations"]} == {"score"}


def test_several_columns_can_name_a_row_together(table: pl.DataFrame, tmp_path: Path) -> None:
    twice = pl.concat([table.with_columns(res=pl.lit(224)), table.with_columns(res=pl.lit(384))])
    outcomes = twice.select("model", "res", score=pl.col("size") * pl.col("res"))
    document = write(twice, tmp_path, outcomes=outcomes, on=["model", "res"])
    assert "96 of 96 rows have an outcome" in " ".join(document["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "sise"}, r"no column 'sise' \(did you mean 'size'"),
        ({"family": "clan"}, r"no column 'clan'"),
        ({"se_x": "sd"}, r"no column 'sd'"),
        ({"x": "model"}, r"column 'model' must hold numbers"),
        ({"outcomes": "nowhere.csv", "on": "model"}, r"nowhere\.csv: no such file"),
        ({"outcomes": "nowhere.csv"}, r"needs `on`"),
        ({"y": "size"}, r"two different columns"),
    ],
)
def test_bad_input_is_one_clear_message(
    table: pl.DataFrame, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(StatsError, match=message):
        write(table, tmp_path, **options)
    assert not any(tmp_path.iterdir())


def test_no_rows_are_refused(table: pl.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(StatsError, match="no rows"):
        write(table.clear(), tmp_path)


@pytest.mark.usefixtures("figures_drawn")
@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows_are_a_null_result_with_its_reason(
    table: pl.DataFrame, tmp_path: Path, rows: int
) -> None:
    document = write(table.head(rows), tmp_path, family="family")
    assert f"{rows} usable rows, at least 3 needed" in document["summary"][1]
    assert_drawn(tmp_path)


@pytest.mark.usefixtures("figures_drawn")
def test_a_constant_column_is_a_null_result_with_its_reason(
    table: pl.DataFrame, tmp_path: Path
) -> None:
    document = write(table.with_columns(pl.lit(1.0).alias("size")), tmp_path, family="family")
    assert "size is constant" in document["summary"][1]
    assert_drawn(tmp_path)


@pytest.mark.usefixtures("figures_drawn")
def test_infinities_are_left_out_and_listed(table: pl.DataFrame, tmp_path: Path) -> None:
    broken = table.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(np.inf).otherwise("size").alias("size")
    )
    document = write(broken, tmp_path, family="family", label="model")
    assert [(r["label"], r["reason"]) for r in document["tables"]["excluded"]] == [
        ("a3", "infinite")
    ]
    assert_drawn(tmp_path)


@pytest.mark.skipif(not TIMM.is_dir(), reason="timm's published results are not here")
def test_timms_published_results(tmp_path: Path) -> None:
    imagenet = read_table(TIMM / "results-imagenet.csv").head(300)
    outcomes = read_table(TIMM / "results-imagenetv2-matched-frequency.csv")
    document = write(
        family_from_name(imagenet, "model"),
        tmp_path,
        x="param_count",
        y="top1",
        log=["param_count"],
        family="family",
        outcomes=outcomes,
        on=["model", "img_size"],
        outcome_columns=["top1_outcome"],
    )
    assert "of 300 rows have an outcome" in document["notes"][0]
    associations = [
        r
        for r in document["tables"]["outcome_associations"]
        if (r["x"], r["scope"], r["method"]) == ("top1", "pooled", "pearson")
    ]
    # Accuracy on ImageNet and on ImageNet-V2 go together closely (Recht et al. 2019).
    assert associations[0]["estimate"] > 0.9
