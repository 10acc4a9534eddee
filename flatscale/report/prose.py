"""What was found, in plain words; the same sentences whether the answer is yes or no."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flatscale.report import numbers
from flatscale.report.content import Content
from flatscale.report.main_tables import headline_frame


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One large number with its name and its uncertainty."""

    title: str
    value: str
    detail: str


def meta_of(content: Content) -> tuple[str, ...]:
    """The line under the title: what a reader needs to cite the report."""
    x, y = content.primary
    items = [f"primary pair: {y} against {x}"]
    items += (
        [f"scale: log10 of {' and '.join(n for n in (x, y) if n in content.log)}"]
        if any(n in content.log for n in (x, y))
        else ["scale: as measured"]
    )
    items += [
        f"{name}: {value}" for name, value in content.provenance.items() if name == "config hash"
    ]
    return tuple(items)


def headline_row(content: Content) -> dict[str, Any] | None:
    """Pearson's row of the primary pair in the table of correlations."""
    x, y = content.primary
    for row in headline_frame(content).iter_rows(named=True):
        if (row["x"], row["y"], row["method"]) == (x, y, "pearson"):
            return row
    return None


def headline_of(content: Content) -> tuple[Headline, ...]:
    """Pooled, within and between, and how many networks they rest on."""
    row = headline_row(content)
    if row is None:
        return ()
    made = [
        Headline(
            title=title,
            value=numbers.correlation(row[key]),
            detail=f"95% {numbers.interval(row[low], row[high])}" if row[low] is not None else why,
        )
        for title, key, low, high, why in (
            ("r, all networks", "estimate", "conf_low", "conf_high", "no interval"),
            ("r within families", "within", "within_low", "within_high", "not defined here"),
            (
                "r between families",
                "between",
                "between_low",
                "between_high",
                "too few families for an interval",
            ),
        )
    ]
    families = (
        f"in {numbers.plural(row['num_families'], 'family', 'families')}"
        if row["num_families"]
        else ""
    )
    made.append(
        Headline(title="networks used", value=numbers.count(row["num_trials"]), detail=families)
    )
    return tuple(made)


def summary_of(content: Content) -> tuple[str, ...]:
    """The findings in a few sentences."""
    x, y = content.primary
    row = headline_row(content)
    if row is None or row["estimate"] is None:
        why = content.problem or (row or {}).get("reason") or "there is no result for it"
        return (f"Whether {y} goes with {x} cannot be said: {why}",)
    sentence = (
        f"Over {numbers.plural(row['num_trials'], 'network')}, {y} and {x} correlate with "
        f"r = {numbers.correlation(row['estimate'])} "
        f"(95% interval {numbers.interval(row['conf_low'], row['conf_high'])}, "
        f"p = {numbers.p_value(row['p_value'])})."
    )
    return (sentence,)
