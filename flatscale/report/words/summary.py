"""What was found, in plain words; the same sentences whether the answer is yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from flatscale.report.content.page_tables import headline_frame
from flatscale.report.content.report_content import Content
from flatscale.report.words import printed


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One large number with its name and its uncertainty."""

    title: str
    value: str
    detail: str


def scale_of(content: Content) -> str:
    """The declared scale of the primary pair, in words."""
    logs = [name for name in content.primary if name in content.log]
    if len(logs) == 2:
        return "both as log10"
    return f"{logs[0]} as log10" if logs else "both as measured"


def meta_of(content: Content) -> tuple[str, ...]:
    """The line under the title: what a reader needs to cite the report."""
    x, y = content.primary
    items = [f"primary pair: {y} against {x}, {scale_of(content)}"]
    for name in ("config hash", "last trial finished", "flatscale"):
        if name in content.provenance:
            items.append(f"{name}: {content.provenance[name]}")
    return tuple(items)


def headline_row(content: Content) -> dict[str, Any] | None:
    """Pearson's row of the primary pair in the table of correlations."""
    x, y = content.primary
    found = headline_frame(content).filter(x=x, y=y, method="pearson")
    return found.row(0, named=True) if found.height else None


def headline_of(content: Content) -> tuple[Headline, ...]:
    """Pooled, within and between, and how many networks they rest on."""
    row = headline_row(content)
    if row is None:
        return ()
    levels = [("r, all networks", "estimate", "conf_low", "conf_high")]
    if content.family is not None:
        levels += [
            ("r within families", "within", "within_low", "within_high"),
            ("r between families", "between", "between_low", "between_high"),
        ]
    made = [
        Headline(title=title, value=printed.correlation(row[key]), detail=_detail(row, low, high))
        for title, key, low, high in levels
    ]
    families = row["num_families"]
    detail = f"in {printed.plural(families, 'family', 'families')}" if families else ""
    made.append(
        Headline(title="networks used", value=printed.count(row["num_trials"]), detail=detail)
    )
    return tuple(made)


def _detail(row: dict[str, Any], low: str, high: str) -> str:
    if row[low] is None:
        return "no interval"
    return f"95% {printed.interval(row[low], row[high])}"


def summary_of(content: Content) -> tuple[str, ...]:
    """Asked, found, how sure, what departs, what is left out: a sentence or two each."""
    row = headline_row(content)
    parts = [_asked(content)]
    if row is None or row["estimate"] is None:
        parts.append(_unanswered(content, row))
    else:
        parts += [_found(content, row), _inside(content, row), clusters_sentence(content)]
    parts.append(used_sentence(content))
    return tuple(part for part in parts if part)


def _asked(content: Content) -> str:
    x, y = content.primary
    declared = ""
    if "config hash" in content.provenance:
        declared = (
            " The pair and its scale are the ones declared in the study file "
            f"(hash {content.provenance['config hash']})."
        )
    return (
        f"Asked: do networks with a larger {x} have a larger {y} ({scale_of(content)})?{declared}"
    )


def _unanswered(content: Content, row: dict[str, Any] | None) -> str:
    why = content.problem or (row or {}).get("reason") or "the analysis has no result for this pair"
    return f"Found: this cannot be said: {why.rstrip('.')}."


def _found(content: Content, row: dict[str, Any]) -> str:
    estimate, low, high = row["estimate"], row["conf_low"], row["conf_high"]
    says = (
        f"Found: over {printed.plural(row['num_trials'], 'network')}, "
        f"r = {printed.correlation(estimate)}"
    )
    if low is None or high is None:
        return f"{says}, without an interval: {row['reason'] or 'too few families'}."
    test = "" if row["p_value"] is None else f", {printed.tested('p', row['p_value'])}"
    says += f" (95% interval {printed.interval(low, high)}{test}; {units_of(row)})."
    note = f" It {row['reason']}." if row["reason"] else ""
    return f"{says} {verdict(estimate, low, high)}{note}"


def units_of(row: dict[str, Any]) -> str:
    """What counts as independent in an interval."""
    count = row["num_units"]
    if row["units"] == "families":
        return f"the {count} families, not networks, count as independent"
    if row["units"] == "configurations":
        return f"the {count} configurations, not their seeds, count as independent"
    return "networks count as independent"


def verdict(estimate: float, low: float, high: float) -> str:
    """What an interval allows one to say."""
    if low <= 0 <= high and high - low > 1:
        return (
            "The interval contains zero and is wide: these networks are too few, or too "
            "different, to say whether the two go together."
        )
    if low <= 0 <= high:
        return (
            "The interval contains zero: the collection as a whole does not show a correlation, "
            f"and does not exclude one as strong as {printed.correlation(max(low, high, key=abs))}."
        )
    weakest = low if estimate > 0 else high
    way = "together" if estimate > 0 else "in opposite directions"
    return (
        f"The two go {way}; a correlation weaker than {printed.correlation(weakest)} is unlikely."
    )


def _inside(content: Content, row: dict[str, Any]) -> str:
    if content.family is None or row["within"] is None:
        return ""
    says = f"Inside families r = {_with_interval(row, 'within')}"
    if row["between"] is not None:
        says += f"; between family means r = {_with_interval(row, 'between')}"
    return f"{says}.{_reversal_sentence(content)}{_synthesis_sentence(content)}"


def _with_interval(row: dict[str, Any], level: str) -> str:
    low, high = row[f"{level}_low"], row[f"{level}_high"]
    known = "" if low is None else f" {printed.interval(low, high)}"
    return printed.correlation(row[level]) + known


def _reversal_sentence(content: Content) -> str:
    """Simpson's paradox, where the signs differ: established or not."""
    found = content.of_primary("sign_reversal").drop_nulls("verdict")
    verdict_of_signs = found["verdict"].to_list()
    if verdict_of_signs == ["established"]:
        return " Pooling reverses the sign that holds inside families (Simpson's paradox)."
    if verdict_of_signs == ["not established"]:
        return (
            " The signs differ, but that pooling reverses one (Simpson's paradox) is not "
            "established: an interval, of a sign or of their difference, contains zero."
        )
    return ""


def _synthesis_sentence(content: Content) -> str:
    found = content.of_primary("synthesis").drop_nulls(["prediction_low", "i_squared"])
    if found.is_empty():
        return ""
    row = found.row(0, named=True)
    return (
        f" {row['i_squared']:.0%} of the differences between families is not noise (I²); in a new "
        f"family r would fall in {printed.interval(row['prediction_low'], row['prediction_high'])}."
    )


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
    return f"{before}The scan for outlier clusters flags {named}.{_without_clusters(content)}"


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


def _without_clusters(content: Content) -> str:
    """The correlation without all flagged clusters, or without the only one."""
    effects = content.of_primary("cluster_effects").filter(
        pl.col("removed") != "none", pl.col("scope") == "pooled"
    )
    if (effects["removed"] == "all flagged").any():
        effects = effects.filter(pl.col("removed") == "all flagged")
    pearson = effects.filter(pl.col("method").str.starts_with("pearson")).drop_nulls("estimate")
    if pearson.is_empty():
        return ""
    row = pearson.sort("method", descending=True).row(0, named=True)
    return (
        f" Without them r = {printed.correlation(row['estimate'])} "
        f"{printed.interval(row['conf_low'], row['conf_high'])}; they stay in everything else here."
    )


def used_sentence(content: Content) -> str:
    """How many of the planned trials count, and why the others do not."""
    if content.flow is None:
        return ""
    flow = content.flow
    says = f"Of {printed.plural(flow.count('planned'), 'planned trial')}, {len(flow.used)} are used"
    reasons = flow.unused.group_by("outcome", maintain_order=True).len()
    if reasons.height:
        listed = ", ".join(f"{n} {outcome}" for outcome, n in reasons.iter_rows())
        says += f"; the others: {listed} (each is listed with its reason)"
    says += "."
    if flow.unconverged.height:
        says += (
            f" In {printed.plural(flow.unconverged.height, 'used network')} an estimator did not "
            "converge."
        )
    return says
