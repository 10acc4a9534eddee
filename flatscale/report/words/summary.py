"""What was found, in plain words; the same sentences whether the answer is yes or no."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from flatscale.report.content.page_tables import headline_frame
from flatscale.report.content.report_content import Content
from flatscale.report.words import printed
from flatscale.report.words.clusters import clusters_sentence
from flatscale.report.words.course_of_training import training_sentence

Row = dict[str, Any]

_APART = 0.15
"""Two correlations differ for a reader from this difference of atanh r on."""


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


def headline_row(content: Content) -> Row | None:
    """Pearson's row of the primary pair in the table of correlations."""
    x, y = content.primary
    found = headline_frame(content).filter(x=x, y=y, method="pearson")
    return found.row(0, named=True) if found.height else None


def mean_row(content: Content) -> Row | None:
    """The mean over families of the primary pair, where there is one."""
    found = content.of_primary("synthesis").drop_nulls("estimate")
    return found.row(0, named=True) if found.height else None


def summary_of(content: Content) -> tuple[str, ...]:
    """Asked, found, how sure, what departs, what is left out: a sentence or two each."""
    row = headline_row(content)
    parts = [_asked(content)]
    if row is None or row["estimate"] is None:
        parts += [_unanswered(content, row), training_sentence(content)]
    else:
        levels = f"{levels_sentence(content)} {reconciled(content)}".strip()
        parts += [_found(content, row), levels, clusters_sentence(content)]
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


def _unanswered(content: Content, row: Row | None) -> str:
    why = content.problem or (row or {}).get("reason") or "the analysis has no result for this pair"
    return f"Found: this cannot be said: {why.rstrip('.')}."


def _found(content: Content, row: Row) -> str:
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
    unsure = contains_zero(row) and high - low > 1
    needed = more_needed(content, row) if unsure else ""
    return f"{says} {verdict(estimate, low, high)}{needed}{note}"


def units_of(row: Row) -> str:
    """What counts as independent in an interval."""
    counted = printed.units(row["units"], row["num_units"])
    if row["units"] == "families":
        return f"the {counted}, not networks, count as independent"
    if row["units"] == "configurations":
        return f"the {counted}, not their seeds, count as independent"
    return "networks count as independent"


def contains_zero(row: Row, low: str = "conf_low", high: str = "conf_high") -> bool | None:
    """Whether an interval contains zero; None where there is none."""
    return None if row[low] is None or row[high] is None else bool(row[low] <= 0 <= row[high])


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


def more_needed(content: Content, row: Row) -> str:
    """How much larger the study would have to be to tell, where a pilot as this one says it."""
    found = content.of_primary("required_numbers").sort("half_width", descending=True)
    if found.is_empty():
        return ""
    wanted = found.row(0, named=True)
    width, families = printed.number(wanted["half_width"], 1), row["num_families"] or 0
    if wanted["families"] and wanted["families"] > families:
        more = printed.plural(wanted["families"] - families, "more family", "more families")
        return f" About {more} like these are needed for an interval of ±{width}."
    if wanted["configurations"]:
        number = printed.plural(wanted["configurations"], "configuration")
        return f" About {number} in each family are needed for an interval of ±{width}."
    return ""


def levels_sentence(content: Content) -> str:
    """r within, over and between families; the mean over families first where they disagree."""
    row, mean = headline_row(content), mean_row(content)
    if content.family is None or row is None or row["within"] is None:
        return ""
    parts = [f"inside families r = {printed.with_interval(row, 'within')}"]
    if mean is not None:
        place = 0 if _differ(mean, row) else 1
        parts.insert(place, f"the mean over families is {printed.with_interval(mean)}")
    if row["between"] is not None:
        parts.append(f"between family means r = {printed.with_interval(row, 'between')}")
    says = "; ".join(parts)
    return f"{says[0].upper()}{says[1:]}."


def reconciled(content: Content) -> str:
    """Where within, the mean over families and the pooled r disagree, why, in words."""
    row, mean = headline_row(content), mean_row(content)
    if row is None:
        return ""
    parts = []
    if mean is not None and row["within"] is not None and _differ(mean, row):
        parts.append(_why_apart(mean, row))
    parts += [_about_zero(content, row, mean), _reversal_sentence(content), _new_family(mean)]
    return " ".join(filter(None, parts))


def _differ(mean: Row, row: Row) -> bool:
    """Whether r within families and the mean over families tell a reader different things."""
    zeros = contains_zero(mean), contains_zero(row, "within_low", "within_high")
    return zeros[0] != zeros[1] or _far_apart(mean["estimate"], row["within"])


def _far_apart(one: float, other: float) -> bool:
    edge = 1 - 1e-9
    distance = math.atanh(max(-edge, min(edge, one))) - math.atanh(max(-edge, min(edge, other)))
    return one * other < 0 or abs(distance) >= _APART


def _why_apart(mean: Row, row: Row) -> str:
    if _far_apart(mean["estimate"], row["within"]):
        return (
            "The mean over families and r inside families differ, as slopes or spreads differ "
            "between families: r inside families lets large and widely spread families count "
            "most, the mean gives each family its own r. Read the mean."
        )
    return (
        "The mean over families and r inside families agree in size and not about zero: the mean "
        "takes families as a sample of families and r inside families does not. Read the mean "
        "where the question is about other families."
    )


def _about_zero(content: Content, row: Row, mean: Row | None) -> str:
    """Where the pooled interval and the other levels differ about zero, what that means."""
    pooled = contains_zero(row)
    if pooled is None:
        return ""
    line = content.of_primary("robust_line").drop_nulls(["slope_low", "slope_high"])
    slope = line.row(0, named=True) if line.height else None
    others = [("r inside families", contains_zero(row, "within_low", "within_high"))]
    if mean is not None:
        others.insert(0, ("the mean over families", contains_zero(mean)))
    inside = [name for name, zero in others if zero is False]
    by_line = ""
    if slope is not None and contains_zero(slope, "slope_low", "slope_high") is False:
        steep = printed.interval(slope["slope_low"], slope["slope_high"], show=printed.number)
        by_line = f"the slope of the robust line ({steep})"
    if pooled and inside:
        named = printed.listed([*inside, *filter(None, [by_line])])
        return (
            f"Over all networks zero is not excluded, for {named} it is: the answer is about "
            "networks of one family; over the collection, differences between families hide it."
        )
    if pooled and by_line:
        return (
            f"Zero is not excluded for r, but it is for {by_line}, which gives networks far "
            "from the line little weight: what is seen rests on leaving them aside."
        )
    if not pooled and mean is not None and contains_zero(mean):
        return (
            "Over all networks zero is excluded, for the mean over families it is not: the "
            "pooled correlation may come from differences between families."
        )
    return ""


def _reversal_sentence(content: Content) -> str:
    """Simpson's paradox, where the signs differ: established or not."""
    found = content.of_primary("sign_reversal").drop_nulls("verdict")
    verdict_of_signs = found["verdict"].to_list()
    if verdict_of_signs == ["established"]:
        return "Pooling reverses the sign that holds inside families (Simpson's paradox)."
    if verdict_of_signs == ["not established"]:
        return (
            "The signs differ, but that pooling reverses one (Simpson's paradox) is not "
            "established: an interval, of a sign or of their difference, contains zero."
        )
    return ""


def _new_family(mean: Row | None) -> str:
    if mean is None or mean["prediction_low"] is None or mean["i_squared"] is None:
        return ""
    return (
        f"{mean['i_squared']:.0%} of the differences between families is not noise (I²); in a "
        "new family r would fall in "
        f"{printed.interval(mean['prediction_low'], mean['prediction_high'])}."
    )


def stronger_level(row: Row) -> str:
    """Which of within and between is stronger: claimed where the intervals of |r| are apart."""
    sizes = []
    for level in ("within", "between"):
        low, high = row[f"{level}_low"], row[f"{level}_high"]
        if low is None or high is None:
            return "Which of the two is stronger is not established: one has no interval."
        ends = sorted((abs(low), abs(high)))
        sizes.append((0.0 if low <= 0 <= high else ends[0], ends[1]))
    within, between = sizes
    if within[0] > between[1]:
        return "It is stronger within families."
    if between[0] > within[1]:
        return "It is stronger between families."
    return "Which of the two is stronger is not established: their intervals overlap."


def used_sentence(content: Content) -> str:
    """How many of the planned trials, or of a table's rows, count, and why the others do not."""
    if content.flow is None:
        return _rows_sentence(content)
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


def _rows_sentence(content: Content) -> str:
    total, left_out = content.rows.height, content.of_primary("excluded")
    if not total or content.analysis is None:
        return ""
    says = f"Of {printed.plural(total, 'row')} of the table, {total - left_out.height} are used"
    reasons = left_out.group_by("column", "reason", maintain_order=True).agg(pl.len())
    if reasons.height:
        listed = ", ".join(f"{n} ({column}: {reason})" for column, reason, n in reasons.iter_rows())
        says += f"; left out: {listed}"
    return f"{says}."
