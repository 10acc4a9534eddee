"""Any column against any other, coloured by a hyperparameter or by family."""

from __future__ import annotations

import json

import altair as alt

from flatscale.report.charts.chart import NARROW, Chart, to_spec
from flatscale.report.charts.points import NAME, OWN_FAMILY, column_keys
from flatscale.report.content.content import Content


def explorer_chart(content: Content) -> Chart | None:
    """Choose x, y and the colouring hyperparameter from lists."""
    keys = column_keys(content)
    if len(keys) < 2:
        return None
    x = content.primary[0]
    y = next((name for name in content.outcomes if name in keys), content.primary[1])
    colours = [name for name in content.hyperparameters if name in keys] or [x]
    return Chart(
        key="explorer",
        title="Each metric against each outcome",
        caption="Choose the columns below the chart. Columns declared logarithmic are shown as "
        "log10. Colour: where the networks come from in the design, so that a hyperparameter "
        "behind both can be seen.",
        wide=to_spec(_explorer(content, keys, x, y, colours, width=600)),
        narrow=to_spec(_explorer(content, keys, x, y, colours, width=NARROW - 20)),
    )


def _explorer(
    content: Content, keys: dict[str, str], x: str, y: str, colours: list[str], *, width: int
) -> alt.Chart:
    names = list(keys)
    logs = {keys[name] for name in content.log if name in keys}

    def choice(name: str, start: str, allowed: list[str]) -> alt.Parameter:
        bind = alt.binding_select(
            options=[keys[column] for column in allowed], labels=allowed, name=f"{name}: "
        )
        return alt.param(name=name, value=keys[start], bind=bind)

    def chosen(name: str) -> str:
        """The value of the chosen column, as log10 where the study declares it."""
        listed = "[" + ",".join(f"'{key}'" for key in sorted(logs)) + "]"
        log10 = f"datum[{name}] > 0 ? log(datum[{name}]) / LN10 : null"
        return f"indexof({listed}, {name}) >= 0 ? ({log10}) : datum[{name}]"

    across, up, tint = (
        choice("across", x, names),
        choice("up", y, names),
        choice("colour", colours[0], colours),
    )
    shown = {key: f"log10 {n}" if key in logs else n for n, key in keys.items()}
    # JSON is a literal of Vega's expressions, too: no name can end the string it stands in.
    table = json.dumps(shown)
    lines = f"[{table}[up] + ' against', {table}[across], 'coloured by ' + {table}[colour]]"
    title = alt.ExprRef(expr=lines if width < NARROW else f"join({lines}, ' ')")
    return (
        alt.Chart(alt.NamedData(name="trials"))
        .transform_calculate(x=chosen("across"), y=chosen("up"), c="datum[colour]")
        .transform_filter("isValid(datum.x) && isValid(datum.y)")
        .mark_point(filled=True, size=65, opacity=0.85)
        .encode(
            x=alt.X(field="x", type="quantitative", scale=alt.Scale(zero=False), title=None),
            y=alt.Y(field="y", type="quantitative", scale=alt.Scale(zero=False), title=None),
            color=alt.Color(
                field="c",
                type="quantitative",
                scale=alt.Scale(
                    scheme="viridis", type="log" if _positive(content, colours) else "linear"
                ),
                legend=alt.Legend(title="colour", gradientLength=180),
            ),
            tooltip=[
                alt.Tooltip(field=NAME, type="nominal", title="network"),
                alt.Tooltip(field=OWN_FAMILY, type="nominal", title="family"),
                alt.Tooltip(field="x", type="quantitative", title="across", format=".4~g"),
                alt.Tooltip(field="y", type="quantitative", title="up", format=".4~g"),
                alt.Tooltip(field="c", type="quantitative", title="colour", format=".4~g"),
            ],
        )
        .add_params(across, up, tint)
        .properties(width=width, height=int(width * 0.62), title=alt.TitleParams(text=title))
    )


def _positive(content: Content, columns: list[str]) -> bool:
    return all((content.rows[name].drop_nulls() > 0).all() for name in columns)
