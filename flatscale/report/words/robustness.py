"""Would the answer be another one: sentences on choices, estimators, families, size, chance."""

from __future__ import annotations

from typing import Any

import polars as pl

from flatscale.report.content.derived_tables import estimators_frame
from flatscale.report.content.page_tables import declared_curve, prefer_family_intervals
from flatscale.report.content.report_content import Content
from flatscale.report.words import printed
from flatscale.report.words.summary import contains_zero, headline_row, units_of

Row = dict[str, Any]


def influence_sentence(content: Content) -> str:
    """What r is without each family, and which family moves it most."""
    left = content.of_primary("leave_one_out").drop_nulls("estimate")
    row = headline_row(content)
    if left.is_empty() or row is None or row["estimate"] is None:
        return ""
    most = left.sort(pl.col("shift").abs(), descending=True).row(0, named=True)
    values = left["estimate"].to_list()
    change = "the sign changes" if min(values) * max(values) < 0 else "the sign stays"
    return (
        f"Without any one of {printed.plural(left.height, 'family', 'families')} r "
        f"stays in {printed.interval(min(values), max(values))}: {change}. {most['family']} moves "
        f"it most, from {printed.correlation(row['estimate'])} to "
        f"{printed.correlation(most['estimate'])}."
    )


def independence_sentence(content: Content) -> str:
    """The interval with networks as if independent, and the one over the units."""
    found = content.of_primary("findings").filter(pl.col("scope") == "pooled")
    by_method = {row["method"]: row for row in found.iter_rows(named=True)}
    naive, tested = by_method.get("pearson"), by_method.get("pearson_jackknife")
    if naive is None or naive["conf_low"] is None:
        return ""
    as_rows = printed.interval(naive["conf_low"], naive["conf_high"])
    if tested is None:
        return (
            f"Nothing says that they are not: {printed.count(naive['num_trials'])} rows without "
            f"families or replicates are taken as independent ({as_rows})."
        )
    families = printed.plural(tested["num_families"] or 1, "family", "families")
    says = f"{printed.count(tested['num_trials'])} networks come in {families}"
    if tested["conf_low"] is None:
        return f"No. {says}; there is no interval that respects this: {tested['reason']}."
    as_units = printed.with_interval(tested)
    if tested["units"] == "rows":
        return (
            f"Only as far as this design can tell: {says}, too few to be units of their own, and "
            f"no configuration is repeated. Networks count as independent (r = {as_units}), so "
            "the conclusion holds for these families alone."
        )
    kind = "family"
    if tested["units"] == "configurations":
        kind = "configuration"
        says = says.replace("come in", f"come in {tested['num_units']} configurations of")
    return (
        f"No. {says}; those of one {kind} resemble each other. Taken as independent, they would "
        f"give the interval {as_rows}; here {units_of(tested)}: r = {as_units}."
    )


def choices_sentence(content: Content) -> str:
    """How many other choices agree with the declared one, and the curve of all as a whole."""
    grid = declared_curve(content).filter(method="pearson")
    declared = grid.filter("declared")
    others = grid.filter(~pl.col("declared"))
    if declared.is_empty():
        return ""
    if others.is_empty():
        return "There is no other scale and no other set of networks to choose from here."
    chosen = declared.row(0, named=True)
    values, rows = others["estimate"].to_list(), list(others.iter_rows(named=True))
    same = sum(value * chosen["estimate"] > 0 for value in values)
    known = [zero for zero in map(contains_zero, rows) if zero is not None]
    networks = printed.listed(others["rows"].unique(maintain_order=True).to_list())
    return (
        f"Under {printed.plural(len(values), 'other choice')} of scale and networks ({networks}) "
        "pooled r ranges over "
        f"{printed.interval(min(values), max(values))}, {printed.correlation(chosen['estimate'])} "
        f"as declared: {same} of {len(values)} have the same sign, and "
        f"{_excluded(known)}.{_whole_curve(content)}"
    )


def _whole_curve(content: Content) -> str:
    """Every specification: the share that agrees, and what shuffles give."""
    (row,) = content.of_primary("multiverse_summary").iter_rows(named=True)
    if row["p_median"] is None:
        return ""
    words = (
        f" With other families, estimators and outcomes there are {row['num_specifications']} "
        f"specifications, median r = {printed.correlation(row['median'])}: "
        f"{row['share_sign']:.0%} have one sign"
    )
    if row["share_significant"] is not None:
        words += f", and {row['share_significant']:.0%} of those tested have it with p ≤ 0.05"
    words += f". Shuffled inside families, {printed.tested('p', row['p_median'])} for the median"
    if row["p_significant"] is not None:
        words += f" and {printed.tested('p', row['p_significant'])} for that many significant ones"
    return f"{words}."


def scale_sentence(content: Content) -> str:
    """Which scale was declared, how skewed it is, and what the other scales say."""
    columns = list(content.of_primary("scales").iter_rows(named=True))
    if not columns:
        return ""
    declared = printed.listed(
        [
            f"{row['column']} {'as log10' if row['scale'] == 'log' else 'as measured'} (skewness "
            f"{printed.number(row['skewness'], 2)})"
            for row in columns
        ]
    )
    says = f"Declared: {declared}."
    says += "".join(f" {row['warning'].rstrip('.')}." for row in columns if row["warning"])
    grid = declared_curve(content).filter(rows="all", method="pearson")
    others = grid.filter(~pl.col("declared"))
    if others.is_empty():
        return f"{says} No other scale is possible: values are not all positive."
    x, y = content.primary
    listed = printed.listed(
        [
            f"{printed.with_interval(row)} ({x} {row['scale_x']}, {y} {row['scale_y']})"
            for row in others.iter_rows(named=True)
        ]
    )
    return f"{says} On the other scales r = {listed}."


def _excluded(contain_zero: list[bool]) -> str:
    if not contain_zero:
        return "none has an interval"
    return f"{contain_zero.count(False)} of {len(contain_zero)} intervals exclude zero"


def estimators_sentence(content: Content) -> str:
    """Whether other estimators of the same correlation agree."""
    frame = estimators_frame(content)
    pooled = {
        row["method"].removesuffix("_jackknife"): row
        for row in frame.filter(scope="pooled").iter_rows(named=True)
    }
    row = headline_row(content)
    if row is None or row["estimate"] is None:
        return f"This cannot be said: {(row or {}).get('reason') or 'the pair has no r'}."
    names = {"spearman": "Spearman ρ", "kendall": "Kendall τ-b", "percentage_bend": "percentage "
             "bend", "winsorized": "winsorized", "skipped": "skipped"}  # fmt: skip
    values = {
        name: pooled[key]["estimate"]
        for key, name in names.items()
        if key in pooled and pooled[key]["estimate"] is not None
    }
    same = sum(value * row["estimate"] > 0 for value in values.values())
    listed = printed.listed([f"{name} {printed.correlation(v)}" for name, v in values.items()])
    says = f"Beside r = {printed.correlation(row['estimate'])}: {listed}; {same} of {len(values)} "
    says += "have its sign."
    bca = pooled.get("pearson_bca")
    if bca is not None and bca["conf_low"] is not None:
        ends = printed.interval(bca["conf_low"], bca["conf_high"])
        says += f" The BCa bootstrap of networks, as if independent, gives {ends}."
    shuffled = frame.filter(method="pearson_permutation").drop_nulls("p_value")
    if shuffled.height:
        says += f" Shuffling inside families gives {printed.tested('p', shuffled['p_value'][0])}."
    return says


def adjusted_sentence(content: Content) -> str:
    """r with the covariates held fixed, and corrected for measurement error."""
    if content.analysis is None:
        return ""
    found = content.of_primary("findings").filter(pl.col("scope") == "pooled")
    by_method = {row["method"]: row for row in found.iter_rows(named=True)}
    partial, corrected = by_method.get("partial"), by_method.get("disattenuated")
    parts = []
    covariates = content.analysis.design.covariates
    if partial is None:
        parts.append("No covariate is declared to hold fixed.")
    elif partial["estimate"] is None:
        parts.append(f"Nothing can be held fixed: {partial['reason']}.")
    else:
        over = "" if partial["units"] is None else f", {units_of(partial)}"
        parts.append(
            f"With {printed.listed(covariates)} held fixed, partial r = "
            f"{printed.with_interval(partial)}{over}."
        )
    if corrected is None:
        parts.append("No standard errors are recorded, so nothing is corrected for them.")
    elif corrected["estimate"] is None:
        parts.append(f"Not corrected for measurement error: {corrected['reason']}.")
    else:
        parts.append(f"Corrected for measurement error, r = {printed.with_interval(corrected)}.")
    return " ".join(parts)


def smallness_sentence(content: Content) -> str:
    """Whether the correlation is shown to be smaller than the bound; a large p shows nothing."""
    row = headline_row(content)
    parts = [_against_bound(test, row) for test in _rows(content, "equivalence")]
    return f"Tested, not read off a large p: {'; '.join(parts)}." if parts else ""


def _rows(content: Content, table: str) -> list[Row]:
    return list(content.of_primary(table).iter_rows(named=True))


def _against_bound(test: Row, row: Row | None) -> str:
    pooled = test["scope"] == "pooled"
    where = "over all networks" if pooled else "inside families"
    bound, ends = printed.number(test["bound"], 1), "conf" if pooled else "within"
    low, high = (None, None) if row is None else (row[f"{ends}_low"], row[f"{ends}_high"])
    if low is not None and high is not None and (low > test["bound"] or high < -test["bound"]):
        return f"{where} |r| is larger than {bound} ({printed.interval(low, high)})"
    if test["p_value"] is None:
        return f"{where} there is no test ({test['reason']})"
    p = printed.tested("p", test["p_value"])
    if test["p_value"] < 0.05:
        return f"{where} |r| is smaller than {bound} ({p})"
    return f"{where} it is not shown that |r| is smaller than {bound} ({p})"


def needed_sentence(content: Content) -> str:
    """The size of study for intervals of the wanted widths."""
    rows = _rows(content, "required_numbers")
    if not rows:
        return ""
    if rows[0]["now"] is None:
        return f"It cannot be told from this study: {rows[0]['reason']}."
    now = printed.number(rows[0]["now"], 2)
    wanted = "; ".join(map(needed_words, rows))
    return f"A balanced study of this size has an interval of ±{now}; {wanted}."


def needed_words(row: Row) -> str:
    """What one half width needs, from a row of `required_numbers`."""
    width = f"{row['half_width']:g}"
    if row["now"] <= row["half_width"]:
        return f"that is within ±{width}"
    ways = [
        f"{printed.plural(row[level], one, many)} {where}"
        for level, one, many, where in (
            ("families", "family", "families", "in all"),
            ("configurations", "configuration", "configurations", "in each family"),
            ("seeds", "seed", "seeds", "of each configuration"),
        )
        if row[level] is not None
    ]
    needed = " or ".join(ways) or "more than a change of one level alone"
    return f"for ±{width} it needs {needed}"


def controls_sentence(content: Content) -> str:
    """How often columns that cannot matter pass the tests of this report."""
    parts = []
    table = content.of_primary("negative_controls").filter(pl.col("draws") > 0)
    for (control,), rows in table.group_by("control", maintain_order=True):
        name = str(control).removeprefix("control: ")
        if name.startswith("shuffled ") and content.family is not None:
            name += " (inside families, whose differences it keeps)"
        wins = printed.listed(
            [
                f"{row['wins']} of {row['draws']} "
                f"{'over all networks' if row['scope'] == 'pooled' else 'inside families'}"
                for row in rows.iter_rows(named=True)
            ]
        )
        parts.append(f"{name} {wins}")
    if not parts and content.of_primary("negative_controls").height:
        return "This cannot be said: this design has no test that such a column could pass."
    if not parts:
        return ""
    return f"Columns that cannot matter pass at the 5% level: {'; '.join(parts)}."


def line_sentence(content: Content) -> str:
    """The robust slope, and what the check of linearity says."""
    found = content.of_primary("robust_line").drop_nulls("slope")
    if found.is_empty():
        return ""
    row = found.row(0, named=True)
    slope = printed.number(row["slope"])
    if row["slope_low"] is not None:
        slope += f" {printed.interval(row['slope_low'], row['slope_high'], show=printed.number)}"
    logs = [name for name, on in zip(content.primary, (row["log_x"], row["log_y"]), strict=True)
            if on]  # fmt: skip
    scale = f", {printed.listed(logs)} as log10" if logs else ""
    says = f"The robust line has the slope {slope}{scale}."
    for checked in content.of_primary("linearity").iter_rows(named=True):
        if checked["p_value"] is None:
            says += f" Linearity is not checked: {checked['reason']}."
        else:
            p = printed.tested("p", checked["p_value"])
            curved = "The relation is curved" if checked["curved"] else "No curvature is found"
            says += f" {curved} ({p}, families as units)."
    return says


def parts_sentence(content: Content) -> str:
    """The range of r over the data sets, networks or other parts of the study."""
    found = content.table("subsets")
    found = found.filter(pl.col("scope") == "pooled", pl.col("method").str.starts_with("pearson"))
    found = prefer_family_intervals(found).drop_nulls("estimate")
    says = []
    for (column,), rows in found.group_by("column", maintain_order=True):
        values = rows["estimate"].to_list()
        q = rows.drop_nulls("q_value")
        passed = q.filter(pl.col("q_value") < 0.05).height
        says.append(
            f"{printed.plural(rows.height, 'part')} by {column}: r from "
            f"{printed.correlation(min(values))} to {printed.correlation(max(values))}, "
            f"{passed} of {q.height} with q < 0.05"
        )
    return f"{'; '.join(says)}." if says else ""
