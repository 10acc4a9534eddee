"""What became of every planned trial: the flow table, and the list of those that are not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from flatscale.stats.tables.declaration import COUNT, REAL, TEXT, Column, declare
from flatscale.store.records import DIVERGED, FAILED, FINISHED
from flatscale.store.results import Results
from flatscale.study.plan import TrialSpec

NOT_RUN = "not run"
STEP_LIMIT = "step_limit"

UNUSED = declare(
    "unused",
    "one trial that is in no correlation",
    Column("trial_id", TEXT, "the trial's id", "trial"),
    Column("family", TEXT, "its family", "family"),
    Column("batch_size", COUNT, "samples a step", "batch size"),
    Column("learning_rate", REAL, "learning rate", "learning rate"),
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
    caption="These networks stay in the statistics; the sensitivity table shows the primary pair "
    "without them.",
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


def trace_flow(specs: Sequence[TrialSpec], results: Results) -> Flow:
    """Follow every planned trial to where it ends.

    A trial is used when it finished, has the primary pair measured at its end and, where the study
    requires interpolation, did not hit the step limit. All others are listed with a reason.
    """
    recorded = {row["trial_id"]: row for row in results.trials.iter_rows(named=True)}
    planned = {spec.trial_id: spec for spec in specs}
    measured = _primary_values(results)
    unused, used = [], []
    for trial_id, spec in planned.items():
        row = recorded.get(trial_id)
        verdict = _verdict(row, measured.get(trial_id, {}), results)
        if verdict is None:
            used.append(trial_id)
        else:
            unused.append(_unused_row(spec, row, *verdict))
    foreign = [
        {name: row.get(name) for name in UNUSED.schema}
        | {"outcome": row["status"], "reason": "recorded, but not a trial of the current plan"}
        for trial_id, row in recorded.items()
        if trial_id not in planned
    ]
    unconverged = _unconverged(results, used)
    return Flow(
        stages=_stages(results, planned, recorded, unused, used, foreign, unconverged),
        unused=UNUSED.frame(unused),
        foreign=UNUSED.frame(foreign),
        unconverged=unconverged,
        used=tuple(used),
    )


def _primary_values(results: Results) -> dict[str, dict[str, tuple[float | None, str | None]]]:
    wanted = results.measurements.filter(
        pl.col("is_final") & pl.col("metric").is_in(results.study.analysis.primary)
    )
    values: dict[str, dict[str, tuple[float | None, str | None]]] = {}
    for row in wanted.iter_rows(named=True):
        values.setdefault(row["trial_id"], {})[row["metric"]] = (row["value"], row["reason"])
    return values


def _verdict(
    row: dict[str, object] | None,
    values: dict[str, tuple[float | None, str | None]],
    results: Results,
) -> tuple[str, str] | None:
    """(outcome, reason) for a trial that is not used, None for one that is."""
    if row is None:
        return NOT_RUN, "no record in the store yet; run the study again to add it"
    if row["status"] in (DIVERGED, FAILED):
        return str(row["status"]), str(row["reason"] or "no reason was recorded")
    if row["stop"] == STEP_LIMIT and results.study.analysis.require_interpolation:
        return "step limit", "hit the step limit before it interpolated, which the study requires"
    # Columns that are not metrics (learning_rate, batch_size) may be declared primary, too.
    for name in results.study.analysis.primary:
        if name in results.trials.columns:
            continue
        value, reason = values.get(name, (None, "it was not measured"))
        if value is None:
            return "not measured", f"no value of {name}: {reason}"
    return None


def _unused_row(
    spec: TrialSpec, row: dict[str, object] | None, outcome: str, reason: str
) -> dict[str, object]:
    return {
        "trial_id": spec.trial_id,
        "family": row["family"] if row else spec.family or spec.architecture,
        "learning_rate": spec.learning_rate,
        "batch_size": spec.batch_size,
        "seed_index": spec.seed_index,
        "outcome": outcome,
        "reason": reason,
    }


def _unconverged(results: Results, used: Sequence[str]) -> pl.DataFrame:
    families = results.trials.select("trial_id", "family")
    return (
        results.measurements.filter("is_final", ~pl.col("converged"))
        .filter(pl.col("trial_id").is_in(list(used)))
        .group_by("trial_id", maintain_order=True)
        .agg(pl.col("metric").str.join(", ").alias("metrics"))
        .join(families, on="trial_id", how="left", maintain_order="left")
        .select(UNCONVERGED.schema.names())
    )


def _stages(
    results: Results,
    planned: dict[str, TrialSpec],
    recorded: dict[str, dict[str, object]],
    unused: list[dict[str, object]],
    used: list[str],
    foreign: list[dict[str, object]],
    unconverged: pl.DataFrame,
) -> pl.DataFrame:
    ended = [row for trial_id, row in recorded.items() if trial_id in planned]
    status = [row["status"] for row in ended]
    limited = sum(row["stop"] == STEP_LIMIT for row in ended)
    kept = "left out" if results.study.analysis.require_interpolation else "kept"
    outcomes = [row["outcome"] for row in unused]
    rows = [
        ("planned", len(planned), "trials of the study file"),
        ("not run", outcomes.count(NOT_RUN), "no record yet"),
        ("failed", status.count(FAILED), "ended with an error"),
        ("diverged", status.count(DIVERGED), "training loss became non-finite"),
        ("finished", status.count(FINISHED), "trained to the end and measured"),
        ("hit the step limit", limited, f"finished without interpolating; {kept}"),
        ("not measured", outcomes.count("not measured"), "finished without the primary pair"),
        ("used", len(used), "enter the statistics"),
        ("unconverged", unconverged.height, "used, but an estimator missed its tolerance"),
        ("not in the plan", len(foreign), "records of other plans in this store; not used"),
    ]
    return pl.DataFrame(rows, schema=FLOW.schema, orient="row")
