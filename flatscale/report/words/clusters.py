"""The family scan in words: a line or a curve, who departs from it, r without them."""

from __future__ import annotations

from typing import Any

import polars as pl

from flatscale.report.content.report_content import Content
from flatscale.report.words import printed


def clusters_sentence(content: Content) -> str:
    """Whether the relation is a line, which families the scan flags, and r without them."""
    scanned = content.of_primary("clusters").drop_nulls("q_value")
    if scanned.is_empty():
        return ""
    before = _curved(content)
    flagged = scanned.filter("flagged")
    if flagged.is_empty():
        least = printed.tested("smallest q", min(scanned["q_value"]))
        common = "curve" if before else "line"
        return f"{before}No family departs from the common {common} ({least})."
    named = "; ".join(_flagged(row) for row in flagged.iter_rows(named=True))
    return (
        f"{before}The scan for outlier clusters flags {named}."
        f"{_without_clusters(content)}{clumps_sentence(flagged)}"
    )


def scan_sentence(content: Content) -> str:
    """The scan's result with who made it and what it merged."""
    found = clusters_sentence(content)
    if not found:
        return printed.cannot_say(content.of_primary("clusters"))
    return f"{found}{copies_sentence(content)}"


def clumps_sentence(flagged: pl.DataFrame) -> str:
    """Which flagged families lie in clumps, whose rows say less than their number."""
    clumped = sorted(set(flagged.filter("clumped")["family"]))
    if not clumped:
        return ""
    one = len(clumped) == 1
    return (
        f" The networks of {printed.listed(clumped)} lie in clumps, nearer to each other than "
        "independent networks with the residuals of the other families (p ≤ 0.05 for each family), "
        "so that they may count for less than their number: "
        f"{'this flag is a question, not an answer' if one else 'these flags are questions'}."
    )


def copies_sentence(content: Content) -> str:
    """Near copies of other networks, which the scan merged."""
    counted = content.of_primary("clusters").unique("family").filter(pl.col("num_copies") > 0)
    if counted.is_empty():
        return ""
    copies = counted.sort("num_copies", "family", descending=[True, False])
    number = int(copies["num_copies"].sum())
    families = printed.listed([f"{f} {n}" for f, n in copies["family", "num_copies"].iter_rows()])
    return (
        f" {printed.plural(number, 'network')} lie so close to another of their family that the "
        f"scan counts them as its copies and merges them ({families}); nothing else merges them."
    )


def _curved(content: Content) -> str:
    checked = content.of_primary("linearity").filter("curved")
    if checked.is_empty():
        return ""
    p = printed.tested("p", checked["p_value"][0])
    return (
        f"The relation is curved (check of linearity with families as units: {p}); outliers are "
        "sought about a monotone curve. "
    )


def _flagged(row: dict[str, Any]) -> str:
    """One flagged cluster; a part of a split family may be off its family, yet on the line."""
    q = printed.tested("q", row["q_value"])
    if row["test"] == "slope":
        return f"{row['family']}, whose slope differs from the other families' ({q})"
    members = f"{row['num_members']} of {row['num_trials']} {row['family']}"
    if row["test"] != "subset":
        members = f"the whole family {row['family']} ({row['num_trials']} networks),"
    way = -1 if row["side"] == "below" else 1
    if row["test"] != "subset" or row["mean_z"] is None or way * row["mean_z"] >= 1:
        return f"{members} {row['side']} the line ({q})"
    return (
        f"{members} {row['side']} the rest of their family but near the line "
        f"(mean z = {printed.number(row['mean_z'], 2)}, {q})"
    )


def without_clusters(content: Content) -> dict[str, Any] | None:
    """Pearson's pooled row without all flagged clusters, or without the only one."""
    effects = content.of_primary("cluster_effects").filter(
        pl.col("num_removed") > 0, pl.col("scope") == "pooled"
    )
    if (effects["removed"] == "all flagged").any():
        effects = effects.filter(pl.col("removed") == "all flagged")
    pearson = effects.filter(pl.col("method").str.starts_with("pearson")).drop_nulls("estimate")
    if pearson.is_empty():
        return None
    tested = pl.col("conf_low").is_not_null()
    return pearson.sort(tested, "method", descending=True).row(0, named=True)


def _without_clusters(content: Content) -> str:
    row = without_clusters(content)
    if row is None:
        return ""
    return f" Without them r = {printed.with_interval(row)}; they stay in everything else here."
