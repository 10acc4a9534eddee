"""All metrics at once: pairs, outcomes, hyperparameters, bounds, invariance, precision, breadth."""

from __future__ import annotations

from typing import Any

import polars as pl

from flatscale.report.content.derived_tables import invariance_frame
from flatscale.report.content.page_tables import headline_frame
from flatscale.report.content.report_content import Content
from flatscale.report.content.table_view import method_name
from flatscale.report.words import printed
from flatscale.report.words.summary import headline_row

Row = dict[str, Any]


def pairs_sentence(content: Content) -> str:
    """How many tests were made, and how many pass the correction for their number."""
    primary = headline_row(content)
    if primary is None:
        return ""
    own = "" if primary["p_value"] is None else f" ({printed.tested('p', primary['p_value'])})"
    declared = f"The declared pair{own} is one test and is not corrected"
    others = headline_frame(content).filter(pl.col("method") == "pearson", ~pl.col("is_primary"))
    if others.is_empty():
        return f"{declared}; no other pair was tested."
    tested = others.drop_nulls("q_value")
    number = printed.plural(others.height, "other pair")
    if tested.is_empty():
        reasons = others["reason"].drop_nulls()
        why = f" ({reasons[0]})" if len(reasons) else ""
        return f"{declared}; none of {number} of metrics has a test in this design{why}."
    passed = tested.filter(pl.col("q_value") < 0.05)
    says = f"{declared}; of {number} of metrics, {printed.count(tested.height)} with a test of "
    says += f"Pearson r, q < 0.05 holds for {printed.count(passed.height)}"
    if passed.height:
        best = passed.sort(pl.col("estimate").abs(), descending=True).row(0, named=True)
        says += f", the closest {best['y']} with {best['x']} (r = {printed.with_interval(best)})"
    return f"{says}."


def outcomes_sentence(content: Content) -> str:
    """Pairs of a metric and an outcome that pass, by the most cautious test there is."""
    table = content.table("outcome_associations").filter(pl.col("scope") == "pooled")
    for method in ("pearson_jackknife", "pearson"):
        tested = table.filter(pl.col("method") == method).drop_nulls(["estimate", "q_value"])
        if tested.is_empty():
            continue
        passed = tested.filter(pl.col("q_value") < 0.05).height
        own = _closest(tested.filter(pl.col("x").is_in(content.primary)))
        best = _closest(tested)
        naive = method == "pearson" and content.family is not None
        return (
            f"Outcomes are measured: q < 0.05 by {method_name(method)}"
            f"{', networks taken as independent,' if naive else ''} for {passed} of "
            f"{printed.plural(tested.height, 'pair')} of a metric and an outcome. "
            + (f"Of the primary pair the closest is {own}. " if own not in ("", best) else "")
            + f"The closest of all is {best}."
        )
    untested = table.filter(method="pearson").drop_nulls("estimate")
    if untested.height:
        return f"Outcomes are measured, but none of {untested.height} pairs has a test."
    if not content.outcomes:
        return "No outcome was measured, so nothing is claimed about generalization."
    return ""


def _closest(pairs: pl.DataFrame) -> str:
    if pairs.is_empty():
        return ""
    best = pairs.sort(pl.col("estimate").abs(), descending=True).row(0, named=True)
    q = printed.tested("q", best["q_value"])
    return f"{best['x']} with {best['y']}, r = {printed.with_interval(best)} ({q})"


_BEYOND = (
    (
        "granulated",
        "hyperparameter",
        "mean",
        "ranks best among networks that differ in one hyperparameter, Ψ =",
    ),
    ("mutual_information", "conditioned_on", "minimum", "tells most beyond hyperparameters, K ="),
    ("sign_errors", "summary", "max", "has the smallest sign error in its worst environment,"),
)
"""Table, column that names the summary, the summary, what the best metric does."""


def hyperparameters_sentence(content: Content) -> str:
    """Whether a metric says more than the hyperparameters: Jiang's Psi and K, Dziugaite's error."""
    if set(content.hyperparameters) <= {"seed_index"} and content.flow is not None:
        return "No hyperparameter is varied: these networks differ in their seed alone."
    parts = []
    for table, column, chosen, words in _BEYOND:
        rows = content.table(table).filter(pl.col(column) == chosen).drop_nulls("estimate")
        if rows.is_empty():
            continue
        is_error = table == "sign_errors"
        best = rows.sort(pl.col("estimate").abs(), descending=not is_error).row(0, named=True)
        value = printed.correlation(best["estimate"])
        parts.append(f"{best['metric']} for {best['outcome']} {words} {value}")
    if not parts:
        tables = [content.table(name) for name in ("granulated", "sign_errors")]
        reasons = [reason for table in tables for reason in table["reason"].drop_nulls()]
        return f"This cannot be told: {reasons[0]}." if reasons else ""
    return f"{'; '.join(parts)}."


def invariance_sentence(content: Content) -> str:
    """Metrics that a reparametrization leaves alone, and whether they correlate like the others."""
    frame = invariance_frame(content)
    if frame.is_empty():
        return ""
    y = content.primary[1]
    unmoved = frame.filter(pl.col("unmoved_by") != "")
    moved = frame.filter(pl.col("unmoved_by") == "")
    total = printed.plural(frame.height, "metric")
    names = printed.listed(unmoved["metric"].to_list(), 4)
    said = f" ({names})" if names else ""
    says = (
        f"Of {total} beside {y}, a reparametrization that leaves the function as it is leaves "
        f"{unmoved.height} unmoved{said}"
    )
    ranges = [
        f"{label} r with {y} is {_range(part['estimate'].to_list())}"
        for label, part in (("their", unmoved), ("the others'", moved))
        if part["estimate"].count()
    ]
    signs = [set((part["estimate"].drop_nulls() > 0).to_list()) for part in (unmoved, moved)]
    agree = ""
    if all(signs):
        alike = signs[0] == signs[1] and len(signs[0]) == 1
        agree = " All have one sign." if alike else " The signs do not all agree."
    return f"{': '.join(filter(None, [says, ', '.join(ranges)]))}.{agree}"


def _range(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    low, high = printed.correlation(min(known)), printed.correlation(max(known))
    return low if low == high else f"{low} to {high}"


def bounds_sentence(content: Content) -> str:
    """Median looseness of each bound, tightest first; loosest over tightest; failures."""
    ratios = content.bounds.drop_nulls("log10_ratio")
    if ratios.is_empty():
        return "No bound was measured in this study." if content.flow is not None else ""
    medians = (
        ratios.group_by("bound").agg(pl.col("log10_ratio").median()).sort("log10_ratio", "bound")
    )
    listed = ", ".join(f"{bound} {_times(value)}" for bound, value in medians.iter_rows())
    says = f"Median ratio of bound to metric, tightest first: {listed}."
    of = dict(content.table("bounds").select("bound", "metric").iter_rows())
    alike = medians.filter(pl.col("bound").is_in(list(of))).with_columns(
        pl.col("bound").replace_strict(of, default=None, return_dtype=pl.String).alias("metric")
    )
    for (metric,), rows in alike.group_by("metric", maintain_order=True):
        if rows.height > 1:
            first, last = rows.row(0), rows.row(-1)
            says += (
                f" Of the bounds of {metric}, the loosest ({last[0]}) is "
                f"{_times(last[1] - first[1])} times the tightest ({first[0]})."
            )
    broken = content.bounds.filter(pl.col("violations") > 0).height
    return (
        f"{says} The inequalities that must hold failed in {broken} of {content.bounds.height} "
        "cases."
    )


def _times(log10: float) -> str:
    return printed.number(10**log10) if log10 < 6 else f"10^{log10:.0f}"


def precision_sentence(content: Content) -> str:
    """How reliably the metrics are measured, and how many estimates did not converge."""
    table = content.table("reliability")
    known = table.drop_nulls("reliability").sort("reliability", "metric")
    if known.is_empty():
        return "How precisely they are measured is unknown: no standard errors are recorded."
    least = known.row(0, named=True)
    own = {row["metric"]: row["reliability"] for row in known.iter_rows(named=True)}
    pair = printed.listed(
        [f"{name} {printed.correlation(own[name])}" for name in content.primary if name in own]
    )
    says = f"Reliability of the primary pair: {pair}; " if pair else ""
    says += (
        f"the least reliable of {printed.plural(known.height, 'metric')} is {least['metric']} "
        f"({printed.correlation(least['reliability'])})."
    )
    missed = table.filter(pl.col("num_unconverged") > 0).height
    if table["num_unconverged"].count():
        some = f" The estimator of {printed.plural(missed, 'metric')} did not always converge."
        says += some if missed else " Every estimator converged."
    return f"{says[0].upper()}{says[1:]}"


def breadth_sentence(content: Content) -> str:
    """Classes, optimizers and data sets: the conclusions reach no further."""
    if content.flow is None or content.rows.is_empty():
        return ""
    rows = content.rows
    classes = sorted(rows["num_classes"].drop_nulls().unique())
    optimizers = sorted(rows["optimizer"].drop_nulls().unique())
    datasets = sorted(rows["dataset"].drop_nulls().unique())
    trained = f"Optimizers: {', '.join(optimizers)}" if optimizers else "Trained by others"
    return (
        f"Classes (of a regression: outputs): {', '.join(map(str, classes))}. {trained}. Datasets: "
        f"{', '.join(datasets)}. The conclusions reach no further than these."
    )
