"""One row a family or a metric: estimates with intervals, departures, bounds, precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from flatscale.report.charts import frames
from flatscale.report.charts.encodings import across_at, hover, named, rows_of
from flatscale.report.charts.look import ACCENT, INK, MUTED, WARN, Look
from flatscale.report.content.report_content import Content


def correlations(name: str, content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin:
    """r with its interval: of each family, their random-effects mean and the prediction for a new
    one; or pooled, within and between families.
    """
    base = named(name).encode(
        y=rows_of("label", frame["label"].to_list()),
        color=_when("datum.kind == 'family'", INK, ACCENT),
        tooltip=hover(
            ("label", "networks of", ""),
            ("estimate", "r", ".3f"),
            ("low", "from", ".3f"),
            ("high", "to", ".3f"),
            ("num_trials", "networks", "d"),
            ("note", "note", ""),
        ),
    )
    scale = alt.Scale(domain=[-1, 1], clamp=True)
    dash = alt.condition("datum.kind == 'prediction'", alt.value([4, 3]), alt.value([1, 0]))
    area = look.marker**2
    sizes = alt.Scale(range=[0.4 * area, 2 * area], zero=False)
    intervals = base.mark_rule(style="interval").encode(
        x=alt.X("low:Q", title="Pearson r", scale=scale), x2="high", strokeDash=dash
    )
    dots = (
        base.transform_filter("datum.kind != 'prediction'")
        .mark_point(style="estimate")
        .encode(
            x=alt.X("estimate:Q", title="Pearson r", scale=scale),
            size=alt.Size("num_trials:Q", legend=None, scale=sizes),
            shape=_when("datum.kind == 'family'", "circle", "diamond"),
        )
    )
    return look.across(alt.layer(across_at(0), intervals, dots), frame.height * look.row)


def left_out(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin:
    """Pooled r without each family."""
    full = frames.full_r(content)
    dots = (
        named("left_out")
        .mark_point(style="estimate", color=INK)
        .encode(
            y=rows_of("family", frame["family"].to_list()),
            x=alt.X(
                "estimate:Q",
                title="Pearson r without the family",
                scale=alt.Scale(zero=False, padding=12),
            ),
            tooltip=hover(
                ("family", "without", ""),
                ("estimate", "r", ".3f"),
                ("shift", "shift", "+.3f"),
                ("num_trials", "networks left", "d"),
            ),
        )
    )
    reference = () if full is None else (across_at(full, style="dashed", colour=ACCENT),)
    return look.across(alt.layer(*reference, dots), frame.height * look.row)


def residuals(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin:
    """Standardised residuals by family; members of flagged clusters stand out."""
    families = rows_of("family", frames.residual_families(content))
    flagged = pl.col("flagged").fill_null(False)
    # Vega warns about a layer without data, and q needs room at the right.
    any_flagged = bool(frame.select(flagged.any()).item())
    padding = 5.5 * look.letters if any_flagged else 1.5 * look.letters
    x = alt.X("z:Q", title="standardised residual", scale=alt.Scale(padding=padding, nice=False))
    tips = hover(
        ("name", "network", ""),
        ("family", "family", ""),
        ("z", "standardised residual", ".2f"),
        ("family_q", "smallest q of its family", ".3f"),
    )
    layers = [across_at(-3.5, 3.5, style="dashed"), across_at(0)]
    for style, colour, members in (
        ("departure", MUTED, ~flagged),
        ("flagged", WARN, flagged),
    ):
        if frame.filter(members).height:
            wanted = "datum.flagged" if style == "flagged" else "!datum.flagged"
            points = named("residuals").transform_filter(wanted)
            points = points.mark_point(style=style, color=colour)
            layers.append(points.encode(x=x, y=families, tooltip=tips))
    if any_flagged:
        remarks = (
            named("residuals")
            .transform_aggregate(q="min(family_q)", marked="max(flagged)", groupby=["family"])
            .transform_filter("datum.marked && isValid(datum.q)")
            .transform_calculate(
                text="datum.q < 0.001 ? 'q < 0.001' : 'q = ' + format(datum.q, '.3f')"
            )
            .mark_text(style="remark", align="right")
        )
        # At the right end, where the padding keeps points and lines away.
        layers.append(remarks.encode(x=alt.value("width"), y=families, text="text:N"))
    return look.across(alt.layer(*layers), frame["family"].n_unique() * look.row)


def bounds(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin:
    """log10 of bound over metric for every network and bound, with the median."""
    order = frame.group_by("bound").agg(pl.col("log10_ratio").median()).sort("log10_ratio", "bound")
    base = named("bounds").encode(y=rows_of("bound", order["bound"].to_list()))
    title = "log10 (bound / metric)"
    ticks = base.mark_tick(style="each").encode(
        x=alt.X("log10_ratio:Q", title=title),
        color=_when("datum.fails", WARN, MUTED),
        tooltip=hover(
            ("name", "network", ""),
            ("bound", "bound", ""),
            ("log10_ratio", "log10 ratio", ".3f"),
            ("violations", "violations", ".4~g"),
        ),
    )
    middle = base.mark_point(style="estimate", color=ACCENT).encode(
        x=alt.X("median(log10_ratio):Q", title=title)
    )
    layers = [across_at(0), ticks, middle]
    if frame["fails"].any():
        remarks = (
            base.transform_aggregate(
                failed="sum(fails)", middle="median(log10_ratio)", groupby=["bound"]
            )
            .transform_filter("datum.failed > 0")
            .transform_calculate(text="'fails for ' + datum.failed")
            .mark_text(style="remark", dy=-0.5 * look.row, baseline="middle")
        )
        layers.append(remarks.encode(x="middle:Q", text="text:N"))
    return look.across(alt.layer(*layers), 1.5 * order.height * look.row)


def convergence(content: Content, frame: pl.DataFrame, look: Look) -> alt.TopLevelMixin:
    """Relative standard error of each metric, and whether its estimator converged."""
    base = named("convergence").encode(
        y=rows_of("metric", frame["metric"].to_list()),
        color=_when("datum.num_unconverged > 0", WARN, ACCENT),
        tooltip=hover(
            ("metric", "metric", ""),
            ("median", "median", ".2%"),
            ("low", "10th percentile", ".2%"),
            ("high", "90th percentile", ".2%"),
            ("num_unconverged", "unconverged", "d"),
            ("num_trials", "networks", "d"),
        ),
    )
    unconverged = bool((frame["num_unconverged"] > 0).any())
    padding = 8 * look.letters if unconverged else look.letters

    def x(field: str) -> alt.X:
        return alt.X(
            field,
            title="standard error / value",
            scale=alt.Scale(type="log", nice=False, padding=padding),
            axis=alt.Axis(format="~%", tickCount=4),
        )

    layers = [
        base.mark_rule(style="interval").encode(x=x("low:Q"), x2="high"),
        base.mark_point(style="estimate").encode(x=x("median:Q")),
    ]
    if unconverged:
        remarks = (
            base.transform_filter("datum.num_unconverged > 0")
            .transform_calculate(text="datum.num_unconverged + ' unconverged'")
            .mark_text(style="remark", align="left", dx=0.5 * look.letters)
        )
        layers.append(remarks.encode(x=x("high:Q"), text="text:N"))
    return look.across(alt.layer(*layers), frame.height * look.row)


def partial_note(content: Content, which: str) -> str:
    """A sentence where the figure cannot show every family."""
    if len(content.families) <= frames.MAX_ROWS:
        return ""
    return (
        f" Drawn: the {frames.MAX_ROWS} {which} of {len(content.families)} families; all are "
        "in the table."
    )


def heterogeneity_note(content: Content) -> str:
    """How much of the differences between families is not noise."""
    found = content.of_primary("synthesis").drop_nulls("i_squared")
    if found.is_empty():
        return ""
    return f" {found['i_squared'][0]:.0%} of the differences between them is not noise (I²)."


def _when(test: str, yes: Sequence[float] | str, no: Sequence[float] | str) -> Any:
    return alt.condition(test, alt.value(yes), alt.value(no))
