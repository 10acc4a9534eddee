"""Sentences about prediction beyond the hyperparameters, moderators and partial pooling."""

from __future__ import annotations

import polars as pl

from flatscale.report.content.report_content import Content
from flatscale.report.words import printed
from flatscale.stats.tables.between_families import MEAN, NEW_FAMILY
from flatscale.stats.tables.beyond_hyperparameters import CONFIGURATION, FAMILY


def gain_sentence(content: Content) -> str:
    """How many pairs gain, the largest gain, and whether it carries over to other families."""
    table = content.table("gain_beyond_hyperparameters")
    inside = table.filter(left_out=CONFIGURATION)
    known = inside.drop_nulls("gain")
    if known.is_empty():
        return printed.cannot_say(inside)
    best = known.sort("gain", descending=True).row(0, named=True)
    shown = known.filter(pl.col("conf_low") > 0).height
    pairs = printed.plural(known.height, "pair")
    ends = printed.interval(best["conf_low"], best["conf_high"])
    words = (
        f"With configurations left out, the metric adds to what the hyperparameters predict in "
        f"{shown} of {pairs} of a metric and an outcome. The largest gain: {best['metric']} for "
        f"{best['outcome']}, {printed.correlation(best['gain'])} {ends} of its variance beyond the "
        f"{printed.correlation(best['hyperparameters'])} predicted without it."
    )
    family = table.filter(left_out=FAMILY).drop_nulls("gain")
    if family.height:
        carried = family.filter(pl.col("conf_low") > 0).height
        words += f" With whole families left out: {carried} of {family.height}."
    return words


def moderators_sentence(content: Content) -> str:
    """Which properties of families explain the differences between their correlations."""
    table = content.of_primary("meta_regression")
    known = table.drop_nulls("estimate")
    if known.is_empty():
        return printed.cannot_say(table)
    found = known.filter(pl.col("q_value") <= 0.05)
    asked = printed.listed(known["moderator"].to_list())
    families = printed.plural(int(known["num_families"][0]), "family", "families")
    if found.is_empty():
        return f"Not shown over {families}: none of {asked} has a slope with q ≤ 0.05."
    said = [
        f"{row['moderator']} (slope {printed.number(row['estimate'], 2)}, "
        f"{printed.tested('q', row['q_value'])})"
        for row in found.iter_rows(named=True)
    ]
    return f"Over {families}, r differs with {printed.listed(said)}; asked were {asked}."


def pooling_sentence(content: Content) -> str:
    """The posterior mean under the stated priors, and how far other priors move it."""
    table = content.of_primary("partial_pooling")
    means = table.filter(quantity=MEAN).drop_nulls("estimate")
    if means.is_empty():
        return printed.cannot_say(table)
    stated = means.filter("stated").row(0, named=True)
    new = table.filter(pl.col("stated"), quantity=NEW_FAMILY).row(0, named=True)
    others = means.filter(~pl.col("stated"))["estimate"].to_list()
    return (
        f"Under the stated priors ({stated['priors']}, of atanh r) the mean over families is "
        f"{printed.with_interval(stated)}, positive with probability "
        f"{printed.correlation(stated['probability_positive'])}; a new family's r is "
        f"{printed.with_interval(new)}. Other priors give means of "
        f"{printed.interval(min(others), max(others))}."
    )
