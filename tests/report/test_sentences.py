"""Every sentence of the report, checked against findings.json: each number, each count, each claim.

The numbers are computed here once more from the rows of the file, with nothing of the report's own
code but the way a number is printed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest

from flatscale.report.content.from_table import content_of_table
from flatscale.report.content.page_tables import page_tables
from flatscale.report.content.section import SECTIONS
from flatscale.report.render.write import ReportPaths, _findings_json, _tables
from flatscale.report.words import printed
from flatscale.report.words.summary import stronger_level, summary_of
from flatscale.stats import StudyDesign

Row = dict[str, Any]
Tables = Mapping[str, list[Row]]


def families(count: int, rows: int, *, slope: float = 1.0, seed: int = 0) -> pl.DataFrame:
    """Families that differ in level, with one slope inside each."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(count), rows)
    x = rng.normal(size=count * rows) + rng.normal(size=count)[code]
    y = slope * x + rng.normal(size=count * rows) + rng.normal(size=count)[code]
    gap = 0.5 * y + rng.normal(size=count * rows)
    names = [f"f{index:02d}" for index in code]
    levels = {"width": rng.integers(1, 4, len(x)), "x__std_error": np.full(len(x), 0.2)}
    return pl.DataFrame({"family": names, "x": x, "y": y, "gap": gap, **levels})


def with_cluster(table: pl.DataFrame) -> pl.DataFrame:
    """Four of the first family far above the line."""
    moved = pl.when(pl.int_range(pl.len()) < 4).then(8.0).otherwise(0.0)
    return table.with_columns(y=pl.col("y") + moved)


def with_copies(table: pl.DataFrame) -> pl.DataFrame:
    """Three networks of one family stored nearly six times."""
    copies = [
        table.head(3).with_columns(x=pl.col("x") + 1e-9 * i, y=pl.col("y") - 1e-9 * i)
        for i in range(1, 6)
    ]
    return pl.concat([table, *copies])


def one_family() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    rate = np.repeat(np.arange(9), 4)
    x = rng.normal(size=9)[rate] + 0.3 * rng.normal(size=36)
    return pl.DataFrame(
        {"family": ["vgg"] * 36, "rate": rate, "x": x, "y": x + rng.normal(size=9)[rate]}
    )


STUDIES: Mapping[str, tuple[Callable[[], pl.DataFrame], dict[str, Any]]] = {
    "one family": (one_family, {"configuration": ("rate",)}),
    "three families": (lambda: families(3, 12), {"covariates": ("width",)}),
    "twelve families": (
        lambda: with_copies(families(12, 14)),
        {"outcomes": ("gap",), "covariates": ("width",), "hyperparameters": ("width",)},
    ),
    "one cluster": (lambda: with_cluster(families(14, 14, seed=2)), {"metrics": ("gap",)}),
    "no effect": (lambda: families(12, 12, slope=0.0, seed=3), {"outcomes": ("gap",)}),
    "no families": (lambda: families(1, 30).with_columns(x=pl.col("x").exp()), {"family": None}),
}


@cache
def study(name: str) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Content, findings.json and the sentence of every section of one synthetic study."""
    make, declared = STUDIES[name]
    design = StudyDesign(primary=("x", "y"), label=None, num_resamples=100, **declared)
    content = content_of_table(make(), design, title=name, errors={})
    document = json.loads(_findings_json(content, (), []))
    sentences = {}
    for entry in SECTIONS.values():
        made = entry.function(content)
        if made is not None and made.sentence:
            sentences[entry.name] = made.sentence
    return content, document, sentences


NUMBER = re.compile(r"(?<![\w.])[−-]?\d[\d\u202f]*(?:\.\d+)?(?:e−?\d+)?%?")


def numbers_in(sentence: str, names: Iterable[str]) -> list[str]:
    """The numbers of a sentence, without those in names of columns and families."""
    for name in sorted(names, key=len, reverse=True):
        sentence = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", " ", sentence)
    return NUMBER.findall(sentence.replace("|r|", " ").replace("log10", " "))


def printed_forms(tables: Tables) -> set[str]:
    """Every number of every table in every form in which the report prints one."""
    forms: set[str] = set()
    values = {v for rows in tables.values() for row in rows for v in row.values()
              if isinstance(v, int | float) and not isinstance(v, bool)}  # fmt: skip
    for value in values:
        forms |= {printed.correlation(value), f"{value:.0%}", printed.p_value(value)}
        forms |= {printed.number(value, digits) for digits in (1, 2, 3)}
        forms |= {printed.number(10**value)} if abs(value) < 6 else set()
        if isinstance(value, int):
            forms.add(printed.count(value))
    quoted = [row.get(column) or "" for rows in tables.values() for row in rows
              for column in ("reason", "warning", "priors")]  # fmt: skip
    return forms | {n for text in quoted for n in NUMBER.findall(text)} | {"0.001"}


def headline(tables: Tables, scope: str = "pooled") -> Row:
    """Pearson's row of the primary pair, over units where it has them."""
    rows = {r["method"]: r for r in tables["findings"]
            if (r["x"], r["y"], r["scope"]) == ("x", "y", scope)}  # fmt: skip
    return rows.get("pearson_jackknife", rows.get("pearson", {}))


def others(tables: Tables) -> list[Row]:
    """One row a choice that was not declared: with units where they have an interval."""
    chosen: dict[tuple[str, ...], Row] = {}
    defined = {row["families"] for row in tables["multiverse"]} - {"none"}
    for row in tables["multiverse"]:
        if defined and row["families"] == "none" and row["rows"] != "one per family":
            continue
        if row["outcome"] != "y":
            continue
        if row["scope"] != "pooled" or not row["method"].startswith("pearson"):
            continue
        if row["rows"].startswith("family:") or row["declared"]:
            continue
        key = (row["scale_x"], row["scale_y"], row["rows"])
        better = row["method"] == "pearson_jackknife" and row["conf_low"] is not None
        if key not in chosen or better:
            chosen[key] = row
    return [row for row in chosen.values() if row["estimate"] is not None]


def excludes_zero(row: Row, low: str = "conf_low", high: str = "conf_high") -> bool:
    return row[low] is not None and not row[low] <= 0 <= row[high]


def counts(tables: Tables, key: str) -> set[str]:
    """The counts that a section may name beside the numbers of its tables."""
    main = headline(tables)
    if key == "choices":
        rows = others(tables)
        same = sum(row["estimate"] * main["estimate"] > 0 for row in rows)
        known = [row for row in rows if row["conf_low"] is not None]
        return {*map(str, (len(rows), same, len(known), sum(map(excludes_zero, known))))}
    if key == "leave_one_out":
        return {str(sum(row["estimate"] is not None for row in tables["leave_one_out"]))}
    if key == "outliers":
        copies = {row["family"]: row["num_copies"] for row in tables["clusters"]}
        return {str(sum(copies.values()))}
    if key == "estimators":
        base = {}
        for row in tables["findings"]:
            name = row["method"].removesuffix("_jackknife")
            wanted = ("spearman", "kendall", "percentage_bend", "winsorized", "skipped")
            if row["scope"] == "pooled" and name in wanted and (row["x"], row["y"]) == ("x", "y"):
                base[name] = row["estimate"]
        values = [value for value in base.values() if value is not None]
        return {str(len(values)), str(sum(v * main["estimate"] > 0 for v in values))}
    if key == "pairs":
        rows = [r for r in tables["findings"] if (r["x"], r["y"]) != ("x", "y")
                and (r["scope"], r["method"]) == ("pooled", "pearson_jackknife")]  # fmt: skip
        tested = [r for r in rows if r["q_value"] is not None]
        return {str(n) for n in (len(rows), len(tested), sum(r["q_value"] < 0.05 for r in tested))}
    if key == "outcomes":
        rows = [r for r in tables["outcome_associations"] if r["scope"] == "pooled"]
        methods = [[r for r in rows if r["method"] == m and r["q_value"] is not None]
                   for m in ("pearson_jackknife", "pearson")]  # fmt: skip
        tested = next(filter(None, methods), [])
        return {str(len(tested)), str(sum(r["q_value"] < 0.05 for r in tested))}
    if key == "gain":
        rows = [r for r in tables["gain_beyond_hyperparameters"] if r["gain"] is not None]
        inside, out = ([r for r in rows if r["left_out"] == w] for w in ("configuration", "family"))
        return {str(n) for part in (inside, out) for n in (len(part), sum(map(excludes_zero, part)),
                sum((r["conf_low"] or 0) > 0 for r in part))}  # fmt: skip
    if key == "measuring":
        return {str(sum(row["reliability"] is not None for row in tables["reliability"]))}
    return set()


CONSTANTS = {"95%", "5%", "0.05", "10", "1"}
"""The level of every interval and test; 10 and 1 as in `log10` and `1 - r`."""


@pytest.mark.parametrize("name", STUDIES)
def test_every_number_of_every_sentence_is_in_the_findings(name: str) -> None:
    content, document, sentences = study(name)
    tables = document["tables"]
    assert set(sentences) >= {"independence", "choices", "scale", "estimators", "adjusted", "pairs"}
    forms = printed_forms(tables)
    names = {*content.rows.columns, *(content.families or ())}
    for key, sentence in sentences.items():
        allowed = forms | counts(tables, key) | CONSTANTS | {str(content.rows.height)}
        strange = [n for n in numbers_in(sentence, names) if n not in allowed]
        assert not strange, (key, strange, sentence)
    for sentence in summary_of(content):
        allowed = forms | counts(tables, "outliers") | CONSTANTS | {str(content.rows.height)}
        allowed |= {str(row["families"] - (headline(tables)["num_families"] or 0))
                    for row in tables["required_numbers"] if row["families"]}  # fmt: skip
        strange = [n for n in numbers_in(sentence, names) if n not in allowed]
        assert not strange, (strange, sentence)


@pytest.mark.parametrize("name", STUDIES)
def test_counts_are_the_right_ones(name: str) -> None:
    _, document, sentences = study(name)
    tables = document["tables"]
    rows, main = others(tables), headline(tables)
    known = [row for row in rows if row["conf_low"] is not None]
    same = sum(row["estimate"] * main["estimate"] > 0 for row in rows)
    if rows:
        assert sentences["choices"].startswith(f"Under {printed.plural(len(rows), 'other choice')}")
        assert f": {same} of {len(rows)} have the same sign" in sentences["choices"]
        excluded = sum(map(excludes_zero, known))
        counted = f"{excluded} of {len(known)} intervals exclude zero"
        assert (counted in sentences["choices"]) == bool(known)
    pairs = {(r["x"], r["y"]) for r in tables["findings"] if r["scope"] == "pooled"} - {("x", "y")}
    if not pairs:
        assert "no other pair was tested" in sentences["pairs"]
    for row in tables["negative_controls"]:
        if row["draws"]:
            assert f"{row['wins']} of {row['draws']}" in sentences["controls"]


@pytest.mark.parametrize("name", STUDIES)
def test_the_headline_is_the_row_of_the_primary_pair(name: str) -> None:
    content, document, sentences = study(name)
    main = headline(document["tables"])
    found = summary_of(content)[1]
    assert f"r = {printed.correlation(main['estimate'])}" in found
    assert printed.interval(main["conf_low"], main["conf_high"]) in found
    assert ("The interval contains zero" in found) != excludes_zero(main)
    unit = {"families": "families, not networks", "configurations": "configurations, not their"}
    assert unit.get(main["units"], "networks count as independent") in found
    equal = document["tables"]["equivalence"][0]
    if equal["p_value"] is not None and equal["p_value"] < 0.05:
        assert "over all networks |r| is smaller than 0.2" in sentences["smallness"]


def test_configurations_are_named_where_they_are_the_units() -> None:
    _, _, sentences = study("one family")
    assert (
        "the 9 configurations, not their seeds, count as independent" in sentences["independence"]
    )
    assert "36 networks come in 9 configurations of 1 family" in sentences["independence"]
    assert "leave_one_out" not in sentences
    assert "over families" not in " ".join(sentences.values())


def test_three_family_means_establish_nothing() -> None:
    _, document, sentences = study("three families")
    between = headline(document["tables"], "between")
    assert between["conf_low"] is None or between["num_families"] == 3
    assert "It is stronger between" not in sentences["families"]
    assert "for these families alone" in sentences["independence"]


@pytest.mark.parametrize(
    ("within", "between", "says"),
    [
        ((0.3, 0.5), (0.6, 0.9), "stronger between"),
        ((0.6, 0.9), (-0.3, 0.5), "stronger within"),
        ((0.3, 0.7), (0.6, 0.9), "not established"),
        ((-0.5, 0.2), (0.25, 0.45), "not established"),
        ((0.3, 0.5), (-0.9, -0.6), "stronger between"),
        ((0.3, 0.5), (None, None), "not established"),
    ],
)
def test_a_level_is_stronger_where_the_intervals_of_its_size_are_apart(
    within: tuple[float, float], between: tuple[float | None, float | None], says: str
) -> None:
    ends = dict(zip(("within_low", "within_high", "between_low", "between_high"),
                    (*within, *between), strict=True))  # fmt: skip
    assert says in stronger_level(ends)


def test_one_cluster_is_taken_out_in_words_too() -> None:
    content, document, sentences = study("one cluster")
    flagged = [r for r in document["tables"]["clusters"] if r["flagged"]]
    assert len(flagged) == 1
    without = [r for r in document["tables"]["cluster_effects"]
               if (r["method"], r["scope"]) == ("pearson_jackknife", "pooled")
               and r["removed"] != "none"]  # fmt: skip
    (row,) = without
    r = f"{printed.correlation(row['estimate'])} "
    r += printed.interval(row["conf_low"], row["conf_high"])
    assert f"Without them r = {r}" in sentences["outliers"]
    assert any(f"Without them r = {r}" in sentence for sentence in summary_of(content))


def test_merged_copies_are_counted() -> None:
    _, document, sentences = study("twelve families")
    copies = {r["family"]: r["num_copies"] for r in document["tables"]["clusters"]}
    assert copies["f00"] >= 15
    assert f"{sum(copies.values())} networks lie so close" in sentences["outliers"]
    assert f"f00 {copies['f00']}" in sentences["outliers"]


def test_covariates_and_errors_change_what_a_reader_sees() -> None:
    _, document, sentences = study("twelve families")
    found = {r["method"]: r for r in document["tables"]["findings"]
             if (r["x"], r["y"], r["scope"]) == ("x", "y", "pooled")}  # fmt: skip
    partial = printed.correlation(found["partial"]["estimate"])
    corrected = printed.correlation(found["disattenuated"]["estimate"])
    assert f"With width held fixed, partial r = {partial}" in sentences["adjusted"]
    assert f"Corrected for measurement error, r = {corrected}" in sentences["adjusted"]
    assert "No covariate is declared" in study("no effect")[2]["adjusted"]


def test_what_cannot_be_told_says_how_much_more_is_needed() -> None:
    content, document, _ = study("no effect")
    main = headline(document["tables"])
    found = summary_of(content)[1]
    wide = main["conf_high"] - main["conf_low"] > 1
    assert ("more families like these are needed" in found) == wide
    assert not excludes_zero(main)


def test_the_answers_of_a_whole_report_are_in_its_findings(full_report: ReportPaths) -> None:
    document = json.loads(full_report.findings.read_text())
    page = full_report.page.read_text()
    answers = document["answers"]
    assert len(answers) > 20
    assert all(sentence.endswith(".") for sentence in answers.values()), answers
    assert page.count('<p class="says">') == len(answers)
    bounds = document["tables"]["bound_checks"]
    broken = sum((row["violations"] or 0) > 0 for row in bounds)
    (said,) = [s for s in answers.values() if s.startswith("Median ratio of bound")]
    assert f"failed in {broken} of {len(bounds)} cases" in said
    medians = {
        name: np.median([r["log10_ratio"] for r in bounds if r["bound"] == name])
        for name in {row["bound"] for row in bounds}
    }
    for name, median in medians.items():
        assert f"{name} {printed.number(10**median)}" in said
    ratio = 10 ** (medians["bound_d"] - medians["bound_a"])
    assert f"the loosest (bound_d) is {printed.number(ratio)} times the tightest (bound_a)" in said


def test_a_pooled_interval_and_a_family_mean_that_disagree_are_reconciled(
    full_report: ReportPaths,
) -> None:
    document = json.loads(full_report.findings.read_text())
    tables = document["tables"]
    (mean,) = tables["synthesis"]
    (pooled,) = [r for r in tables["findings"] if (r["x"], r["y"]) == ("sharpness", "mls")
                 and (r["scope"], r["method"]) == ("pooled", "pearson_jackknife")]  # fmt: skip
    assert excludes_zero(mean)
    assert not excludes_zero(pooled)
    (line,) = tables["robust_line"]
    steep = printed.interval(line["slope_low"], line["slope_high"], show=printed.number)
    said = "zero is not excluded, for the mean over families and the slope of the robust line "
    assert f"{said}({steep}) it is" in document["summary"][2]
    assert document["summary"][2].startswith("The mean over families is")


def test_every_statistic_computed_is_shown_with_what_it_takes_as_independent(
    full_report: ReportPaths,
) -> None:
    page = full_report.page.read_text()
    names = ["Pearson r (BCa bootstrap of networks)", "Pearson r (permutation inside families)"]
    names += ["partial r", "r corrected for measurement error", "percentage bend (jackknife)"]
    for name in names:
        assert f">{name}</td>" in page, name
    content, _, _ = study("three families")
    (view,) = page_tables(content, "multiverse")
    heads = [head.title for head in view.headers]
    where, interval = heads.index("independent"), heads.index("95% interval")
    shown = [(row[interval].text, row[where].text) for row in view.rows]
    assert all(units for ends, units in shown if ends != printed.MISSING)
    assert {"networks (naive)", "36 networks"} <= {units for _, units in shown}


def test_every_table_of_the_analysis_that_has_a_title_is_on_the_page(
    full_report: ReportPaths,
) -> None:
    page = full_report.page.read_text()
    for key in ("equivalence", "required-numbers", "negative-controls", "scales", "estimators"):
        assert f'id="table-{key}"' in page, key


def test_tables_are_those_that_the_file_holds() -> None:
    content, document, _ = study("three families")
    assert set(_tables(content)) == set(document["tables"])
