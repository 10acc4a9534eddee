"""Measurements over training: every snapshot, when a network knew its training set, the phases."""

from __future__ import annotations

import polars as pl

from flatscale.report.content.report_content import (
    LAYER_SCHEMA,
    MOMENT_SCHEMA,
    TRAJECTORY_SCHEMA,
    Content,
)
from flatscale.store.results import Results
from flatscale.study.plan import plan

ABOUT_INPUT, ABOUT_LABEL = PLANE = ("input_information", "label_information")
"""The two metrics of the information plane."""
FITTING, COMPRESSION = "fitting", "compression"
FALL = 0.05
"""A layer compresses where I(X; T) falls by more than this share of log2 n."""


def trajectories(results: Results, rows: pl.DataFrame) -> pl.DataFrame:
    """Every snapshot of the used trials, if any trial has more than one."""
    joined = _of_used(results.measurements, rows)
    if joined.is_empty() or joined.group_by("trial_id", "metric").len()["len"].max() == 1:
        return TRAJECTORY_SCHEMA.to_frame()
    return joined.select(TRAJECTORY_SCHEMA.names()).drop_nulls("value")


def layers_over_training(results: Results, rows: pl.DataFrame) -> pl.DataFrame:
    """The information plane of the used trials: LAYER_SCHEMA."""
    joined = _of_used(results.measurements.filter(pl.col("metric").is_in(PLANE)), rows)
    values = joined.drop("value").explode("layers").unnest("layers").drop_nulls("value")
    return values.select(LAYER_SCHEMA.names())


def interpolated(results: Results, rows: pl.DataFrame) -> pl.DataFrame:
    """The step from which each used trial was seen to know its training set.

    It is the first at which a whole evaluation found a training loss of at most `stop_loss`, or a
    snapshot a training accuracy of 1. Trials for which neither was seen have no row.
    """
    levels = [(spec.trial_id, spec.training.stop_loss) for spec in plan(results.study)]
    level = pl.DataFrame(
        levels, schema={"trial_id": pl.String, "stop_loss": pl.Float64}, orient="row"
    )
    losses = results.history.join(level, on="trial_id").filter(
        pl.col("train_loss") <= pl.col("stop_loss")
    )
    right = results.measurements.filter(metric="train_accuracy", value=1.0)
    seen = pl.concat([found.select("trial_id", "step") for found in (losses, right)])
    first = _of_used(seen, rows).group_by("label", maintain_order=True).agg(pl.col("step").min())
    return first.cast(MOMENT_SCHEMA)


def _of_used(table: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    names = rows.select("trial_id", "family", pl.col("name").alias("label"))
    return table.join(names, on="trial_id", how="inner", maintain_order="left")


def information_plane(content: Content) -> pl.DataFrame:
    """I(X; T) and I(T; Y) of every network, layer and snapshot, with its phase.

    The turning point is the snapshot with the largest I(X; T). What follows it is compression
    where I(X; T) ends more than FALL log2 n below it, and fitting otherwise.

    Returns:
        label, family, step, layer, the two metrics, `log2_n`, `phase`, `turning` (the turning
        point, where there is a compression), `fall` (from the largest I(X; T) to the last).
    """
    keys = ["label", "family", "layer", "step"]
    both = content.layers.pivot(
        "metric", index=[*keys, "num_points"], values="value", maintain_order=True
    )
    if not set(PLANE) <= set(both.columns):
        return pl.DataFrame()
    both = both.drop_nulls(PLANE).sort("step", maintain_order=True)
    told, network = pl.col(ABOUT_INPUT), ["label", "layer"]
    found = both.with_columns(
        pl.col("num_points").cast(pl.Float64).log(2).alias("log2_n"),
        (told.max() - told.last()).over(network).alias("fall"),
        pl.col("step")
        .sort_by(told, descending=True, maintain_order=True)
        .first()
        .over(network)
        .alias("turn"),
        pl.len().over(network).alias("snapshots"),
    ).filter(pl.col("snapshots") > 1)
    falls = pl.col("fall") > FALL * pl.col("log2_n")
    after = falls & (pl.col("step") > pl.col("turn"))
    return found.select(
        *keys,
        *PLANE,
        "log2_n",
        "fall",
        pl.when(after).then(pl.lit(COMPRESSION)).otherwise(pl.lit(FITTING)).alias("phase"),
        (falls & (pl.col("step") == pl.col("turn"))).alias("turning"),
    )
