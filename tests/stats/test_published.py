"""Published datasets give their published answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.datasets import load_iris

from flatscale.stats import (
    StudyDesign,
    analyze,
    analyze_study,
    mixed_model,
    repeated_measures,
    robust_line,
    select_pair,
    within_family,
)
from tests.stats import published
from tests.stats.published_cases import HEAD, Case, cases, line

CONFORMANCE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_published_value_is_ours(case: Case) -> None:
    if not case.available:
        pytest.skip(f"{case.file} is not in the repository")
    assert case.ours() == pytest.approx(case.published, abs=case.tolerance, rel=0)


def test_the_page_of_conformance_is_printed_from_the_cases() -> None:
    lines = CONFORMANCE.read_text(encoding="utf-8").splitlines()
    assert "\n".join(lines).startswith(HEAD.strip())
    shown = [text for text in lines if text.startswith("| ")][2:]
    assert len(shown) == len(CASES)
    for case, text in zip(CASES, shown, strict=True):
        if case.available:
            assert line(case) == text, "print the page again: python -m tests.stats.published_cases"
        else:
            assert case.quantity in text


def test_every_case_says_where_it_is_printed() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.source and case.tolerance >= 0 for case in CASES)


def value(frame: pl.DataFrame, scope: str, method: str) -> dict:
    return frame.row(
        by_predicate=(pl.col("scope") == scope) & (pl.col("method") == method), named=True
    )


def test_star_cluster_line_follows_the_main_sequence() -> None:
    sample = select_pair(published.STARS, "log_temperature", "log_light")
    # least squares is led astray by the giants: slope -0.413 (Rousseeuw & Leroy, table 3.2)
    assert np.polyfit(sample.x, sample.y, 1) == pytest.approx([-0.413, 6.793], abs=5e-4)
    line = robust_line(sample)
    assert line is not None
    assert line.method == "mm"


def test_star_cluster_giants_are_outlying_rows() -> None:
    table = published.STARS
    design = StudyDesign(primary=("log_temperature", "log_light"), family=None, label=None)
    outliers = set(analyze_study(table, design).outlier_rows["label"])
    assert outliers >= published.GIANTS
    assert len(outliers) <= 6


def test_star_cluster_robust_correlations_are_positive() -> None:
    found = analyze(published.STARS, "log_temperature", "log_light", family=None)
    for method in ("percentage_bend", "winsorized", "skipped"):
        assert value(found, "pooled", method)["estimate"] > 0.25


def test_anscombe_robust_line_ignores_the_outlier_of_the_third() -> None:
    x, y = published.ANSCOMBE[2]
    line = robust_line(select_pair(pl.DataFrame({"x": x, "y": y}), "x", "y"))
    assert line is not None
    assert line.slope == pytest.approx(0.345, abs=0.005)
    assert line.intercept == pytest.approx(4.0, abs=0.05)


def test_simpsons_paradox_iris() -> None:
    iris = load_iris()
    names = iris.target_names[iris.target]
    table = pl.DataFrame(
        {"length": iris.data[:, 0], "width": iris.data[:, 1], "species": names.tolist()}
    )
    found = analyze(table, "length", "width", family="species")
    assert value(found, "pooled", "pearson")["estimate"] < 0
    assert value(found, "within", "pearson")["estimate"] > 0.45
    assert value(found, "synthesis", "reml")["estimate"] > 0.45


def test_repeated_measures_correlation() -> None:
    sample = select_pair(published.BLAND_ALTMAN, "ph", "paco2", family="subject")
    within = repeated_measures(sample)
    assert within.num_families == 8
    # one subject has 63% of the variation of pH and slopes differ in sign: eight subjects say less
    protected = within_family(sample)
    assert protected.estimate == pytest.approx(within.estimate)
    assert protected.units == "families"
    assert protected.conf_low < within.conf_low < within.conf_high < protected.conf_high


def test_sleep_study() -> None:
    sample = select_pair(published.SLEEP, "days", "reaction", family="subject")
    fit = mixed_model(sample, center=False)
    assert not fit.singular
