"""What became of every planned trial: the flow table, and the list of those that are not used."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import polars as pl

from flatscale.stats.tables.declaration import COUNT, REAL, TEXT, Column, declare
from flatscale.store.records import DIVERGED, FAILED, FINISHED
from flatscale.store.results import Results
from flatscale.study.plan import TrialSpec

NOT_RUN = "not run"
LIMITS = ("step_limit", "epoch_limit")

UNUSED = declare(
    "unused",
    "one trial that is in no correlation",
    Column("trial_id", TEXT, "the trial's id", "trial"),
    Column("family", TEXT, "its family", "family"),
    Column("batch_size", COUNT, "samples a step", "batch size"),
    Column("learning_rate", REAL, "learning rate", "learning rate"),
    Column("axes", TEXT, "where it is on the other axes of the design", "axes"),
    Column("seed_index", COUNT, "number of the repetition", "seed"),
    Column("outcome", TEXT, "how it ended", "outcome"),
    Column("reason", TEXT, "why it is not used", "reason"),
    title="Trials that are not used",
    caption="One row per trial or record without a place in the statistics.",
)
FLOW = declare(
    "flow",
    "one stage between the plan and the statistics",
    Column("stage", TEXT, "the stage", "stage"),
    Column("num_trials", COUNT, "trials that reached it", "trials"),
    Column("meaning", TEXT, "what the stage is", "meaning"),
    title="From plan to statistics",
    caption="Every planned trial ends in one place: not run, failed, diverged, left out, or used.",
    emphasis=lambda row: row["stage"] in ("planned", "used"),
)
UNCONVERGED = declare(
    "unconverged",
    "one used trial with an estimator that missed its tolerance",
    Column("trial_id", TEXT, "the trial's id", "trial"),
    Column("family", TEXT, "its family", "family"),
    Column("metrics", TEXT, "the metrics that did not converge", "metrics"),
    title="Used, with an estimator that did not converge",
    caption="These networks stay in the statistics; the table of other choices shows the "
    "primary pair without them.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Flow:
    """From the plan to the statistics.

    Attributes:
        stages: the table `FLOW`, in order; used + not used = planned.
        unused: the table `UNUSED`: planned trials without a place in the statistics.
        foreign: the table `UNUSED`: records in the store that no planned trial owns.
        unconverged: the table `UNCONVERGED`: kept in the statistics, but an estimator did not
            reach its tolerance.
        used: ids of the trials that enter the statistics, in the order of the plan.
    """

    stages: pl.DataFrame
    unused: pl.DataFrame
    foreign: pl.DataFrame
    unconverged: pl.DataFrame
    used: tuple[str, ...]

    @property
    def not_used(self) -> pl.DataFrame:
        """Planned trials and foreign records that are in no correlation."""
        return pl.concat([self.unused, self.foreign])

    def count(self, stage: str) -> int:
        """How many trials reached a stage of the flow table."""
        return int(self.stages.filter(pl.col("stage") == stage)["num_trials"].item())


def trace_flow(specs: Sequence[TrialSpec], results: Results, *, axes: Collection[str] = ()) -> Flow:
    """Follow every planned trial to where it ends.

    A trial is used when it finished, has the primary pair measured at its end and, where the study
    requires interpolation, did not hit the step limit. All others are listed with a reason.
    """
    followed = _followed(specs, results, axes)
    used = followed.filter(pl.col("outcome").is_null())["trial_id"].to_list()
    foreign = results.trials.filter(~pl.col("trial_id").is_in(followed["trial_id"].to_list()))
    foreign = foreign.with_columns(
        pl.col("axes").map_elements(_shown, return_dtype=pl.String),
        pl.col("status").alias("outcome"),
        pl.lit("recorded, but not a trial of the current plan").alias("reason"),
    )
    unconverged = _unconverged(results, used)
    return Flow(
        stages=_stages(results, followed, foreign.height, unconverged.height),
        unused=_listed(followed.drop_nulls("outcome")),
        foreign=_listed(foreign),
        unconverged=unconverged,
        used=tuple(used),
    )


def _listed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(pl.col(name).cast(dtype) for name, dtype in UNUSED.schema.items())


def _shown(axes: str) -> str:
    """`optimizer=sgd, width=50` of the axes as a record holds them."""
    return ", ".join(f"{name}={label}" for name, label in json.loads(axes).items())


def _followed(specs: Sequence[TrialSpec], results: Results, axes: Collection[str]) -> pl.DataFrame:
    """Every planned trial with its record; `outcome` and `reason` where it is not used."""
    planned = pl.DataFrame(
        [
            {
                "trial_id": spec.trial_id,
                "learning_rate": spec.learning_rate,
                # The whole training set is not known before it was trained on.
                "batch_size": None if spec.batch_size == "full" else spec.batch_size,
                "axes": _shown(json.dumps(spec.further_axes)) or None,
                "seed_index": spec.seed_index,
                "family": spec.family or spec.architecture,
            }
            for spec in specs
        ],
        schema={
            name: UNUSED.schema[name]
            for name in ("trial_id", "learning_rate", "batch_size", "axes", "seed_index", "family")
        },
    ).unique("trial_id", keep="first", maintain_order=True)
    recorded = results.trials.select(
        "trial_id", "status", "stop", "reason", pl.col("family").alias("recorded")
    )
    absent = _absent_primary(planned["trial_id"], results, axes)
    ended, limited = pl.col("status").is_in([DIVERGED, FAILED]), pl.col("stop").is_in(LIMITS)
    required = results.study.analysis.require_interpolation
    # The first that applies; none where a trial is used.
    endings = [
        (
            pl.col("status").is_null(),
            pl.lit(NOT_RUN),
            pl.lit("no record in the store yet; run the study again to add it"),
        ),
        (
            ended,
            pl.col("status"),
            pl.col("reason").replace("", None).fill_null("no reason was recorded"),
        ),
        (
            limited & required,
            pl.lit("step limit"),
            pl.lit("hit the step limit before it interpolated, which the study requires"),
        ),
        (pl.col("absent").is_not_null(), pl.lit("not measured"), pl.col("absent")),
    ]
    return (
        planned.join(recorded, on="trial_id", how="left", maintain_order="left")
        .join(absent, on="trial_id", how="left", maintain_order="left")
        .with_columns(
            pl.coalesce("recorded", "family").alias("family"),
            pl.coalesce(pl.when(test).then(outcome) for test, outcome, _ in endings).alias(
                "outcome"
            ),
            pl.coalesce(pl.when(test).then(reason) for test, _, reason in endings).alias("reason"),
        )
    )


def _absent_primary(trial_ids: pl.Series, results: Results, axes: Collection[str]) -> pl.DataFrame:
    """Trials without a final value of the primary pair: `absent` says of which column, and why."""
    # Columns that are not metrics (facts of a record, axes) may be declared primary, too.
    known = {*results.trials.columns, *axes}
    names = [n for n in results.study.analysis.primary if n not in known]
    needed = trial_ids.to_frame().join(
        pl.DataFrame({"metric": names}, schema={"metric": pl.String}),
        how="cross",
        maintain_order="left_right",
    )
    final = results.measurements.filter("is_final").select("trial_id", "metric", "value", "reason")
    why = pl.col("reason").fill_null("it was not measured")
    return (
        needed.join(final, on=["trial_id", "metric"], how="left", maintain_order="left")
        .filter(pl.col("value").is_null())
        .unique("trial_id", keep="first", maintain_order=True)
        .select("trial_id", pl.format("no value of {}: {}", "metric", why).alias("absent"))
    )


def _unconverged(results: Results, used: Sequence[str]) -> pl.DataFrame:
    families = results.trials.select("trial_id", "family")
    return (
        results.measurements.filter("is_final", ~pl.col("converged"), pl.col("value").is_not_null())
        .filter(pl.col("trial_id").is_in(list(used)))
        .group_by("trial_id", maintain_order=True)
        .agg(pl.col("metric").str.join(", ").alias("metrics"))
        .join(families, on="trial_id", how="left", maintain_order="left")
        .select(UNCONVERGED.schema.names())
    )


def _stages(
    results: Results, followed: pl.DataFrame, num_foreign: int, num_unconverged: int
) -> pl.DataFrame:
    def count(column: str, value: str | None) -> int:
        return int(followed[column].eq_missing(value).sum())

    kept = "left out" if results.study.analysis.require_interpolation else "kept"
    limited = sum(count("stop", limit) for limit in LIMITS)
    rows = [
        ("planned", followed.height, "trials of the study file"),
        ("not run", count("outcome", NOT_RUN), "no record yet"),
        ("failed", count("status", FAILED), "ended with an error"),
        ("diverged", count("status", DIVERGED), "training loss became non-finite"),
        ("finished", count("status", FINISHED), "trained to the end and measured"),
        ("hit the step limit", limited, f"finished without interpolating; {kept}"),
        ("not measured", count("outcome", "not measured"), "finished without the primary pair"),
        ("used", count("outcome", None), "enter the statistics"),
        ("unconverged", num_unconverged, "used, but an estimator missed its tolerance"),
        ("not in the plan", num_foreign, "records of other plans in this store; not used"),
    ]
    return pl.DataFrame(rows, schema=FLOW.schema, orient="row")
