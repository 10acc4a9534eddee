"""From a results store to the content of its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from flatscale.errors import ConfigError, StatsError
from flatscale.report.content.bound_summary import bound_rows, bounded_metrics, inequalities
from flatscale.report.content.flow import Flow, trace_flow
from flatscale.report.content.report_content import (
    TRAJECTORY_SCHEMA,
    Content,
    read_glossary,
    read_provenance,
)
from flatscale.stats import StudyAnalysis, StudyDesign, analyze_study
from flatscale.store.records import HYPERPARAMETER, columns_for
from flatscale.store.results import Results, Store
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.registry import import_plugins

logger = logging.getLogger(__name__)

_HYPERPARAMETERS = columns_for(HYPERPARAMETER)


def content_of_store(store: Store) -> Content:
    """Load, follow every planned trial, analyse those that are usable.

    Raises:
        StoreError: this is not a store, or a file in it is damaged.
    """
    results = store.read()
    study = results.study
    plugin_notes = _import_plugins(study.plugins)
    specs = plan(study)
    flow = trace_flow(specs, results)
    rows = _used_rows(results, flow, specs)
    glossary = read_glossary(store.glossary)
    design = _design(results, rows, specs, glossary)
    analysis, problem = _analyze(rows, design, flow)
    return Content(
        title=study.name,
        question=study.description,
        primary=study.analysis.primary,
        log=design.log,
        metrics=design.all_metrics,
        outcomes=design.outcomes,
        hyperparameters=tuple(name for name in design.hyperparameters if name != "network"),
        family="family",
        label="trial_id",
        rows=rows,
        analysis=analysis,
        problem=problem,
        flow=flow,
        notes=(*plugin_notes, *_notes(results, rows)),
        trajectories=_trajectories(results, rows),
        bounds=bound_rows(results, rows, bounded_metrics(glossary)),
        glossary=glossary,
        provenance={
            "config hash": study.content_hash,
            "study seed": str(study.seed),
            **_recorded_provenance(results),
            **read_provenance(store.provenance),
        },
    )


def usable_trials(store: Store) -> tuple[pl.DataFrame, StudyDesign]:
    """The trials that are analysed, one row each, and what the study declares about them.

    Raises:
        StoreError: this is not a store, or a file in it is damaged.
    """
    results = store.read()
    specs = plan(results.study)
    rows = _used_rows(results, trace_flow(specs, results), specs)
    return rows, _design(results, rows, specs, read_glossary(store.glossary))


def _import_plugins(modules: Sequence[str]) -> tuple[str, ...]:
    """Import what adds statistics and sections; a module that is absent here becomes a note.

    A report is often made where the plugin of a metric or model, or torch, is not installed.
    """
    notes = []
    for module in modules:
        try:
            import_plugins([module])
        except ConfigError as error:
            logger.warning("%s", error)
            notes.append(
                f"The plugin {module!r} could not be imported where this report was made; its "
                "statistics and sections, if it has any, are missing."
            )
    return tuple(notes)


def _used_rows(results: Results, flow: Flow, specs: Sequence[TrialSpec]) -> pl.DataFrame:
    order = pl.DataFrame({"trial_id": list(flow.used)}, schema={"trial_id": pl.String})
    rows = order.join(results.table(), on="trial_id", how="left", maintain_order="left")
    name = pl.format(
        "{} · lr {} · batch {} · seed {} · {}",
        "architecture",
        pl.col("learning_rate").round_sig_figs(3),
        "batch_size",
        "seed_index",
        pl.col("trial_id").str.head(6),
    )
    network = (
        pl.when(pl.col("options").is_in(["", "{}"]) | pl.col("options").is_null())
        .then(pl.col("architecture"))
        .otherwise(pl.format("{} {}", "architecture", "options"))
    )
    # Trials that agree in everything but the seed are replicates of one configuration.
    points = {
        spec.trial_id: spec.model_dump_json(exclude={"seed_index", "family"}) for spec in specs
    }
    number = {point: index for index, point in enumerate(dict.fromkeys(points.values()))}
    configuration = pl.col("trial_id").replace_strict(
        {trial_id: number[point] for trial_id, point in points.items()},
        default=None,
        return_dtype=pl.Int64,
    )
    return rows.with_columns(
        name.alias("name"), network.alias("network"), configuration.alias("configuration")
    )


def _design(
    results: Results,
    rows: pl.DataFrame,
    specs: Sequence[TrialSpec],
    glossary: Sequence[Mapping[str, Any]] | None,
) -> StudyDesign:
    analysis, measured = results.study.analysis, results.study.measurement.metrics
    present = [name for name in measured if name in rows.columns and rows[name].count() > 0]
    outcomes = tuple(name for name in analysis.outcomes if name in present)
    bounded = bounded_metrics(glossary)
    bounds = tuple((b, m) for b, m in bounded.items() if b in present and m in present)
    not_metrics = {*outcomes, *inequalities(glossary)}
    varied = tuple(
        name for name in _HYPERPARAMETERS if len({getattr(spec, name) for spec in specs}) > 1
    )
    if rows["network"].n_unique() > 1:
        varied = ("network", *varied)
    subsets = tuple(
        name
        for name in ("dataset", "network")
        if name in rows.columns and rows[name].n_unique() > 1
    )
    return StudyDesign(
        primary=analysis.primary,
        configuration=("configuration",),
        metrics=tuple(name for name in present if name not in not_metrics),
        log=analysis.log,
        covariates=tuple(name for name in analysis.covariates if name in rows.columns),
        outcomes=outcomes,
        hyperparameters=varied,
        subsets=subsets,
        bounds=bounds,
        # Metrics reduced from one pass are measured on the same points with the same noise.
        error_sources={
            item["name"]: "+".join(item["passes"]) for item in glossary or () if item.get("passes")
        },
        num_test_samples=results.study.data.test_size,
        seed=results.study.seed,
        num_resamples=analysis.num_resamples,
    )


def _analyze(
    rows: pl.DataFrame, design: StudyDesign, flow: Flow
) -> tuple[StudyAnalysis | None, str | None]:
    if rows.is_empty():
        planned = flow.count("planned")
        return None, f"None of the {planned} planned trials can be used; the flow table says why."
    try:
        return analyze_study(rows, design), None
    except StatsError as error:
        # The report still has to say what happened to every trial; it prints this sentence.
        logger.warning("the study cannot be analysed: %s", error)
        return None, f"The table of trials cannot be analysed: {error}."


def _notes(results: Results, rows: pl.DataFrame) -> tuple[str, ...]:
    analysis = results.study.analysis
    notes = [
        f"{kind} {name!r} is declared in the study file but was not measured in any used trial; "
        "it is left out."
        for kind, names in (("Outcome", analysis.outcomes), ("Covariate", analysis.covariates))
        for name in names
        if name not in rows.columns or (rows.height > 0 and rows[name].count() == 0)
    ]
    probes = results.measurements["probe_hash"].drop_nulls().unique()
    if len(probes) > 1:
        notes.append(
            f"The trials were measured on {len(probes)} different probe sets "
            f"({', '.join(sorted(probes))}); their values are not paired."
        )
    return tuple(notes)


def _trajectories(results: Results, rows: pl.DataFrame) -> pl.DataFrame:
    """Every snapshot of the used trials, if any trial has more than one."""
    names = rows.select("trial_id", "family", pl.col("name").alias("label"))
    joined = results.measurements.join(names, on="trial_id", how="inner", maintain_order="left")
    if joined.is_empty() or joined.group_by("trial_id", "metric").len()["len"].max() == 1:
        return TRAJECTORY_SCHEMA.to_frame()
    return joined.select(TRAJECTORY_SCHEMA.names()).drop_nulls("value")


def _recorded_provenance(results: Results) -> dict[str, str]:
    found = {}
    for title, frame, column in (
        ("probe hash", results.measurements, "probe_hash"),
        ("dataset hash", results.trials, "dataset_hash"),
        ("device", results.trials, "device"),
        ("versions", results.trials, "versions"),
    ):
        values = sorted(frame[column].drop_nulls().unique())
        if values:
            found[title] = "; ".join(values)
    finished = results.trials["finished_at"].drop_nulls().sort()
    if len(finished):
        found["last trial finished"] = finished.dt.strftime("%Y-%m-%d %H:%M UTC")[-1]
    return found
