"""From a results store to the content of its report."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from flatscale.errors import ConfigError, StatsError
from flatscale.report.content.bound_summary import bound_rows, bounded_metrics, inequalities
from flatscale.report.content.flow import Flow, trace_flow
from flatscale.report.content.over_training import (
    interpolated,
    layers_over_training,
    trajectories,
)
from flatscale.report.content.report_content import Content, read_glossary, read_provenance
from flatscale.stats import StudyAnalysis, StudyDesign, analyze_study
from flatscale.stats.design import declared_variants
from flatscale.store.records import HYPERPARAMETER, PARAMETER, columns_for
from flatscale.store.results import Results, Store
from flatscale.study.keys import resolve_name, short_names
from flatscale.study.levels import COLUMNS
from flatscale.study.plan import TrialSpec, axis_columns, plan
from flatscale.study.registry import import_plugins
from flatscale.study.schema import StudyConfig

logger = logging.getLogger(__name__)

# Facts of a record that an axis of that name says more of: `sgd momentum=0.9` for `sgd`.
_FACTS = frozenset(columns_for(PARAMETER)) - {"family", "dataset", *columns_for(HYPERPARAMETER)}


def content_of_store(store: Store) -> Content:
    """Load, follow every planned trial, analyse those that are usable.

    Raises:
        StoreError: this is not a store, or a file in it is damaged.
    """
    results = store.read()
    study = results.study
    plugin_notes = _import_plugins(study.plugins)
    glossary = read_glossary(store.glossary)
    results, flow, rows, design = _declared(results, glossary)
    analysis, problem = _analyze(rows, design, flow)
    return Content(
        title=study.name,
        question=study.description,
        primary=design.primary,
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
        trajectories=trajectories(results, rows),
        layers=layers_over_training(results, rows),
        interpolated=interpolated(results, rows),
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
    _, _, rows, design = _declared(store.read(), read_glossary(store.glossary))
    return rows, design


def _declared(
    results: Results, glossary: Sequence[Mapping[str, Any]] | None
) -> tuple[Results, Flow, pl.DataFrame, StudyDesign]:
    """The results by the report's column names, each trial's way, the rows used, the design."""
    specs = plan(results.study)
    axes = _axis_names(results.study, results)
    results = _by_column_names(results, axes)
    flow = trace_flow(specs, results, axes=axes.values())
    rows = _used_rows(results, flow, specs, axes)
    return results, flow, rows, _design(results, rows, specs, axes, glossary)


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


def _axis_names(study: StudyConfig, results: Results) -> dict[str, str]:
    """What each axis of a study is called in its report: the shortest name that is its own."""
    taken = {*results.trials.columns, *results.measurements["metric"].unique()} - _FACTS
    axes = [name for name in axis_columns(study) if name not in COLUMNS.values()]
    own = {name: name for name in axis_columns(study) if name in COLUMNS.values()}
    return own | short_names(axes, taken={*taken, "name", "network", "configuration"})


def _by_column_names(results: Results, axes: Mapping[str, str]) -> Results:
    """The results with the analysis that is declared on the columns as the report calls them."""

    def column(name: str) -> str:
        key = None if name in axes.values() else resolve_name(name, list(axes))
        return name if key is None else axes[key]

    declared = results.study.analysis
    x, y = map(column, declared.primary)
    names = {
        part: tuple(map(column, getattr(declared, part)))
        for part in ("log", "outcomes", "covariates")
    }
    analysis = declared.model_copy(update={"primary": (x, y), **names})
    return replace(results, study=results.study.model_copy(update={"analysis": analysis}))


def _used_rows(
    results: Results, flow: Flow, specs: Sequence[TrialSpec], axes: Mapping[str, str]
) -> pl.DataFrame:
    order = pl.DataFrame({"trial_id": list(flow.used)}, schema={"trial_id": pl.String})
    rows = order.join(results.table(), on="trial_id", how="left", maintain_order="left")
    own = {name: short for name, short in axes.items() if name != short}
    rows = rows.drop(*(set(own.values()) & set(rows.columns))).rename(own)
    by_id = {spec.trial_id: spec for spec in specs}
    used = [by_id[trial_id] for trial_id in rows["trial_id"]]
    # Trials that agree in everything but the seed are replicates of one configuration.
    labels = {"seed_index", "family", "axes"}
    number: dict[str, int] = {}
    points = {s.trial_id: s.model_dump_json(exclude=labels) for s in specs}
    for point in points.values():
        number.setdefault(point, len(number))
    return rows.with_columns(
        pl.coalesce(
            "model", pl.Series([_name(spec, axes) for spec in used], dtype=pl.String)
        ).alias("name"),
        pl.Series("network", [_network(spec) for spec in used], dtype=pl.String),
        pl.Series("configuration", [number[points[s.trial_id]] for s in used], dtype=pl.Int64),
    )


def _name(spec: TrialSpec, axes: Mapping[str, str]) -> str:
    """What a hover calls a network."""
    further = (f" · {axes[name]} {label}" for name, label in spec.further_axes.items())
    return (
        f"{spec.architecture} · lr {spec.learning_rate:.3g} · batch {spec.batch_size}"
        f"{''.join(further)} · seed {spec.seed_index} · {spec.trial_id[:6]}"
    )


def _network(spec: TrialSpec) -> str:
    """The architecture with the options that are no axis: an axis is no other network."""
    options = {k: v for k, v in spec.options.items() if f"model.options.{k}" not in spec.axes}
    if not options or "model.options" in spec.axes:
        return spec.architecture
    return f"{spec.architecture} {json.dumps(options, sort_keys=True)}"


def _varied(specs: Sequence[TrialSpec], axes: Mapping[str, str]) -> tuple[str, ...]:
    """The columns of what the plan varies, seeds last."""
    levels = {short: {spec.axes.get(name) for spec in specs} for name, short in axes.items()}
    levels["seed_index"] = {spec.seed_index for spec in specs}
    return tuple(name for name, found in levels.items() if len(found) > 1)


def _design(
    results: Results,
    rows: pl.DataFrame,
    specs: Sequence[TrialSpec],
    axes: Mapping[str, str],
    glossary: Sequence[Mapping[str, Any]] | None,
) -> StudyDesign:
    analysis, measured = results.study.analysis, results.study.measurement.metrics
    published = {name for spec in specs for name in spec.outcomes}
    present = [
        name
        for name in dict.fromkeys((*measured, *sorted(published)))
        if name in rows.columns and rows[name].count() > 0
    ]
    outcomes = tuple(name for name in analysis.outcomes if name in present)
    bounded = bounded_metrics(glossary)
    bounds = tuple((b, m) for b, m in bounded.items() if b in present and m in present)
    not_metrics = {*outcomes, *inequalities(glossary), *published}
    varied = _varied(specs, axes)
    # Each network of a zoo is one of its own: no level of anything.
    levels = ("dataset",) if results.study.only_measures else ("dataset", "network")
    subsets = tuple(n for n in levels if n in rows.columns and rows[n].n_unique() > 1)
    if "network" in subsets:
        varied = ("network", *varied)
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
        variants=declared_variants(
            glossary or (),
            present,
            {
                base: [name for name in others if name in present]
                for base, others in analysis.variants.items()
                if base in present
            },
        ),
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
        for kind, names in (
            ("Outcome", analysis.outcomes),
            ("Covariate", analysis.covariates),
            ("Variant", [*analysis.variants, *itertools.chain(*analysis.variants.values())]),
        )
        for name in names
        if name not in rows.columns or (rows.height > 0 and rows[name].count() == 0)
    ]
    notes += _without_value(results, rows)
    measured = results.measurements.select("trial_id", "probe_hash").unique().drop_nulls()
    of_data = measured.join(results.trials.select("trial_id", "dataset_hash"), on="trial_id")
    probes = of_data.group_by("dataset_hash").agg(pl.col("probe_hash").unique().sort())
    # Each data set of a study has a probe set of its own.
    for found in sorted(probes["probe_hash"].to_list()):
        if len(found) > 1:
            notes.append(
                f"The trials were measured on {len(found)} different probe sets "
                f"({', '.join(found)}); their values are not paired."
            )
    return tuple(notes)


def _without_value(results: Results, rows: pl.DataFrame) -> list[str]:
    """Metrics that some used networks have no value of at their end, with the reason."""
    ends = results.measurements.filter("is_final", pl.col("trial_id").is_in(rows["trial_id"]))
    absent = ends.filter(pl.col("value").is_null()).group_by("metric", maintain_order=True)
    found = absent.agg(pl.len(), pl.col("reason").drop_nulls().first())
    return [
        f"{metric} has no value in {count} of {rows.height} used networks: {reason}."
        for metric, count, reason in found.iter_rows()
    ]


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
