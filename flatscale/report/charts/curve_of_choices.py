"""The specification curve: every choice of the analysis, smallest r first, and what it chose."""

from __future__ import annotations

import altair as alt
import polars as pl

from flatscale.report.charts.encodings import hover, named
from flatscale.report.charts.frames import CHOICES
from flatscale.report.charts.look import ACCENT, INK, MUTED, Look
from flatscale.report.content.report_content import Content


def specification_curve(
    content: Content, frame: pl.DataFrame, look: Look
) -> alt.ConcatChart | None:
    """r with its interval above, a dot for each choice below, both by rank of r."""
    if frame.height < 3:
        return None
    width = int(look.width - look.names - 4 * look.letters)
    across = alt.X("rank:Q", axis=None, scale=alt.Scale(domain=[0, frame.height + 1]))
    sure = alt.condition("datum.significant", alt.value(ACCENT), alt.value(MUTED))
    base = named("specifications").encode(
        x=across,
        color=sure,
        tooltip=hover(
            ("estimate", "r", ".3f"),
            ("low", "from", ".3f"),
            ("high", "to", ".3f"),
            ("p_value", "p", ".3f"),
            ("num_trials", "networks", "d"),
            *((choice, choice, "") for choice in CHOICES),
        ),
    )
    scale = alt.Scale(domain=[-1, 1], clamp=True)
    zero = alt.Chart(alt.InlineData(values=[{"at": 0}])).mark_rule(style="reference")
    marks = [
        zero.encode(y=alt.Y("at:Q")),
        base.mark_rule(style="interval", opacity=0.4).encode(
            y=alt.Y("low:Q", scale=scale), y2="high"
        ),
        base.mark_point(style="estimate").encode(y=alt.Y("estimate:Q", title="r", scale=scale)),
    ]
    if frame["declared"].any():
        declared = base.transform_filter("datum.declared").mark_point(
            style="flagged", shape="diamond", color=INK
        )
        marks.append(declared.encode(y="estimate:Q", color=alt.value(INK)))
    rows = sum(frame[choice].n_unique() for choice in CHOICES)
    chosen = (
        named("specifications")
        .transform_fold(list(CHOICES), as_=["kind", "value"])
        .transform_calculate(choice="datum.kind + ': ' + datum.value")
        .mark_tick(style="each", orient="vertical")
        .encode(x=across, y=alt.Y("choice:N", title=None, sort=_order(frame)), color=sure)
    )
    top = alt.layer(*marks).properties(width=width, height=8 * look.row)
    below = chosen.properties(width=width, height=int(0.7 * rows * look.row))
    return alt.concat(top, below, columns=1)


def _order(frame: pl.DataFrame) -> list[str]:
    return [
        f"{choice}: {value}"
        for choice in CHOICES
        for value in frame[choice].unique(maintain_order=True).sort()
    ]
