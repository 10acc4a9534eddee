"""Numbers and sentences: what is printed follows from what was found, either way."""

from __future__ import annotations

import polars as pl
import pytest

from flatscale.report.content.page_tables import prefer_family_intervals
from flatscale.report.content.table_view import method_name, table_view
from flatscale.report.words import printed
from flatscale.report.words.summary import verdict
from flatscale.stats import Column
from flatscale.stats.tables.declaration import REAL, TEXT, declare


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0"),
        (1.0, "1.00"),
        (-0.012345, "−0.0123"),
        (123456.0, "123456"),
        (1.5e-7, "1.50e−7"),
        (2.5e12, "2.50e12"),
        (float("inf"), "∞"),
        (float("nan"), "–"),
        (0.9999, "1.000"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert printed.number(value) == text


@pytest.mark.parametrize(("p", "text"), [(0.0, "< 0.001"), (0.0499, "0.050"), (1.0, "1.000")])
def test_p_values(p: float, text: str) -> None:
    assert printed.p_value(p) == text


def test_counts_agree_with_their_noun() -> None:
    assert printed.plural(1, "family", "families") == "1 family"
    assert printed.plural(1200, "network") == "1\u202f200 networks"


@pytest.mark.parametrize(
    ("estimate", "low", "high", "says"),
    [
        (0.6, 0.3, 0.8, "go together; a correlation weaker than 0.30 is unlikely"),
        (-0.6, -0.8, -0.3, "in opposite directions; a correlation weaker than −0.30"),
        (
            0.1,
            -0.2,
            0.35,
            "does not show a correlation, and does not exclude one as strong as 0.35",
        ),
        (0.1, -0.9, 0.95, "too few, or too different, to say"),
    ],
)
def test_a_verdict_follows_from_the_interval(
    estimate: float, low: float, high: float, says: str
) -> None:
    assert says in verdict(estimate, low, high)


def test_an_interval_over_families_replaces_the_one_over_rows_where_there_is_one() -> None:
    frame = pl.DataFrame(
        {
            "scope": ["pooled"] * 4,
            "value": ["a", "a", "b", "b"],
            "method": ["pearson", "pearson_jackknife"] * 2,
            "conf_low": [0.1, 0.0, 0.2, None],
            "reason": [None, None, None, "1 family"],
        }
    )
    kept = prefer_family_intervals(frame)
    assert kept["value"].to_list() == ["a", "b"]
    assert kept["method"].to_list() == ["pearson_jackknife", "pearson"]


def test_methods_have_their_usual_names() -> None:
    assert method_name("kendall") == "Kendall τ-b"
    assert method_name("pearson_jackknife") == "Pearson r (jackknife)"
    assert method_name("pearson_bca") == "Pearson r (BCa bootstrap of networks)"
    assert method_name("percentage_bend_jackknife") == "percentage bend (jackknife)"


def test_names_are_listed_as_one_says_them() -> None:
    assert printed.listed([]) == ""
    assert printed.listed(["a"]) == "a"
    assert printed.listed(["a", "b", "c"]) == "a, b and c"
    assert printed.listed(list("abcdefgh"), 3) == "a, b, c and 5 more"


def test_a_small_negative_correlation_is_no_negative_zero() -> None:
    assert printed.correlation(-0.004) == "0.00"


def test_a_long_note_that_is_the_same_in_every_row_stands_in_the_caption() -> None:
    note = "the random slope's fit is singular: random intercept only"
    table = declare("t", "", Column("n", REAL, "", "n"), Column("note", TEXT, "", "note"))
    rows = [{"n": 1.0, "note": note}, {"n": 2.0, "note": note}]
    view = table_view(table, table.frame(rows))
    assert [head.title for head in view.headers] == ["n"]
    assert note in view.caption
    assert len(table_view(table, table.frame(rows[:1])).headers) == 2


def test_a_column_of_words_with_nothing_in_it_is_not_shown() -> None:
    frame = pl.DataFrame(
        {"n": [1.0, None], "reason": [None, None]}, schema_overrides={"reason": pl.String}
    )
    table = declare("t", "", Column("n", REAL, "", "n"), Column("reason", TEXT, "", "reason"))
    view = table_view(table, frame)
    assert [head.title for head in view.headers] == ["n"]
    assert [[cell.order for cell in row] for row in view.rows] == [["1.0"], [""]]


def test_one_declaration_gives_title_format_order_and_bold() -> None:
    table = declare(
        "a_table",
        "one row",
        Column("hidden", TEXT, "in the data files alone"),
        Column("method", TEXT, "the statistic", "statistic", "method"),
        Column("low", REAL, "lower end", "95% interval", "correlation", end="high"),
        Column("high", REAL, "upper end"),
        Column("p", REAL, "p-value", "p", "probability"),
        title="T",
        emphasis=lambda row: row["p"] is not None and row["p"] < 0.05,
    )
    rows = [
        {"method": "pearson_jackknife", "low": -0.123, "high": 0.5, "p": 0.2, "unknown": 1},
        {"method": "kendall", "low": 0.1, "high": None, "p": 0.0001},
    ]
    view = table_view(table, table.frame(rows))
    assert view.key == "a-table"
    assert [(head.title, head.is_number) for head in view.headers] == [
        ("statistic", False),
        ("95% interval", True),
        ("p", True),
    ]
    assert [[cell.text for cell in row] for row in view.rows] == [
        ["Pearson r (jackknife)", "[−0.12, 0.50]", "0.200"],
        ["Kendall τ-b", "–", "< 0.001"],
    ]
    assert [row[1].order for row in view.rows] == ["-0.123", "0.1"]
    assert view.emphasised == {1}
