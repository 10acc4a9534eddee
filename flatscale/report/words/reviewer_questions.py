"""What reviewers of such a study ask, answered from its tables, whatever the answer is."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from flatscale.report.content.page_tables import headline_frame
from flatscale.report.content.report_content import Content
from flatscale.report.words import printed
from flatscale.report.words.summary import clusters_sentence, headline_row


@dataclass(frozen=True, kw_only=True)
class Point:
    """One item of a list: a few words that lead, then the answer."""

    lead: str
    text: str


def answers_of(content: Content) -> tuple[Point, ...]:
    """Every question for which the tables hold an answer."""
    asked = (
        ("Does it hold only within model classes?", _within_or_between(content)),
        ("Are these networks independent?", _independence(content)),
        ("Who picked the outliers?", _outliers(content)),
        ("Is generalization shown or only claimed?", _generalization(content)),
        ("How loose are the bounds, and how do they compare?", _bounds(content)),
        ("More than two classes, more than one optimizer?", _breadth(content)),
        ("Would other choices have changed the answer?", _choices(content)),
        ("How many tests were made?", _tests(content)),
    )
    return tuple(Point(lead=lead, text=answer) for lead, answer in asked if answer)


def _within_or_between(content: Content) -> str:
    row = headline_row(content)
    if row is None or row["within"] is None or row["between"] is None:
        return ""
    inside = "within" if abs(row["within"]) > abs(row["between"]) else "between"
    ends = [row[f"{level}_{end}"] for level in ("within", "between") for end in ("low", "high")]
    apart = None not in ends and (ends[1] < ends[2] or ends[3] < ends[0])
    return (
        f"Within families r = {printed.correlation(row['within'])}, between family means "
        f"r = {printed.correlation(row['between'])}"
        + (
            f": it is stronger {inside} families. "
            if apart
            else ". Which of the two is stronger is not established: their intervals overlap. "
        )
        + "The mixed model gives both slopes in one fit."
    )


def _independence(content: Content) -> str:
    found = content.of_primary("findings").filter(pl.col("scope") == "pooled")
    by_method = {row["method"]: row for row in found.iter_rows(named=True)}
    naive, tested = by_method.get("pearson"), by_method.get("pearson_jackknife")
    if naive is None or tested is None or naive["conf_low"] is None or tested["conf_low"] is None:
        return ""
    families = printed.plural(tested["num_families"] or 1, "family", "families")
    as_rows = printed.interval(naive["conf_low"], naive["conf_high"])
    as_families = printed.interval(tested["conf_low"], tested["conf_high"])
    return (
        f"No. {printed.count(tested['num_trials'])} networks come in {families}; those of one "
        f"family resemble each other. Taken as independent, the interval of r would be {as_rows}; "
        f"with {tested['units']} as the independent units it is {as_families}, which is the one "
        "used here."
    )


def _outliers(content: Content) -> str:
    sentence = clusters_sentence(content)
    if not sentence:
        return ""
    return (
        "A scan over all families and both sides of the line, with a fixed error rate; no "
        "network was "
        f"picked by hand and none was removed. {sentence}"
    )


def _generalization(content: Content) -> str:
    """Pearson with families as units where there are families, over all metric-outcome pairs."""
    table = content.table("outcome_associations").filter(pl.col("scope") == "pooled")
    for method in ("pearson_jackknife", "pearson"):
        tested = table.filter(pl.col("method") == method).drop_nulls(["estimate", "q_value"])
        if tested.is_empty():
            continue
        best = tested.sort(pl.col("estimate").abs(), descending=True).row(0, named=True)
        passed = tested.filter(pl.col("q_value") < 0.05).height
        return (
            f"Outcomes are measured: of {tested.height} pairs of a metric and an outcome, {passed} "
            f"have q < 0.05. The closest is {best['x']} with {best['y']}, "
            f"r = {printed.correlation(best['estimate'])} ({printed.tested('q', best['q_value'])})."
        )
    if not content.outcomes:
        return "No outcome was measured in this study, so nothing is claimed about generalization."
    return ""


def _bounds(content: Content) -> str:
    ratios = content.bounds.drop_nulls("log10_ratio")
    if ratios.is_empty():
        return ""
    medians = (
        ratios.group_by("bound").agg(pl.col("log10_ratio").median()).sort("log10_ratio", "bound")
    )
    listed = ", ".join(
        f"{bound} {printed.number(10**value if value < 6 else None)}"
        if value < 6
        else f"{bound} 10^{value:.0f}"
        for bound, value in medians.iter_rows()
    )
    broken = content.bounds.filter(pl.col("violations") > 0).height
    return (
        f"Median ratio of bound to metric, tightest first: {listed}. The inequalities that must "
        f"hold failed in {broken} of {content.bounds.height} cases."
    )


def _breadth(content: Content) -> str:
    if content.flow is None or content.rows.is_empty():
        return ""
    rows = content.rows
    classes = sorted(rows["num_classes"].drop_nulls().unique())
    optimizers = sorted(rows["optimizer"].drop_nulls().unique())
    datasets = sorted(rows["dataset"].drop_nulls().unique())
    return (
        f"Classes: {', '.join(map(str, classes))}. Optimizers: {', '.join(optimizers)}. Datasets: "
        f"{', '.join(datasets)}. The conclusions reach no further than these."
    )


def _choices(content: Content) -> str:
    grid = content.table("sensitivity").drop_nulls("estimate")
    grid = grid.filter(~pl.col("rows").str.starts_with("family:"), pl.col("scope") == "pooled")
    grid = grid.filter(pl.col("method").str.starts_with("pearson"))
    if grid.is_empty():
        return ""
    values = grid["estimate"].to_list()
    ends = printed.interval(min(values), max(values))
    return (
        f"Over {len(values)} other sets of choices (scale, clusters in or out, converged only, "
        f"one network a family) pooled Pearson r ranges over {ends}."
    )


def _tests(content: Content) -> str:
    frame = headline_frame(content).drop_nulls("p_value")
    if frame.is_empty():
        return ""
    passed = frame.filter(pl.col("q_value") < 0.05).height
    return (
        f"{frame.height} pooled correlations, of which {passed} have q < 0.05 after the "
        "Benjamini–Hochberg correction. One pair was declared primary and is not corrected."
    )
