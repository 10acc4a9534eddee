"""The order of the report: what is shown where, and in which words."""

from __future__ import annotations

from dataclasses import dataclass

from flatscale.report.charts import Chart, charts_of
from flatscale.report.content import family_views as family_tables
from flatscale.report.content import main_tables
from flatscale.report.content import metric_views as metric_tables
from flatscale.report.content.content import Content
from flatscale.report.content.views import TableView
from flatscale.report.words.reviewers import Point, answers_of
from flatscale.store.layout import GLOSSARY

TINY_CLUSTERS = (
    "What the scan can and cannot say: its null lets families differ as families do, so a whole "
    "family that lies off the line is ordinary up to a point. A cluster of two among a dozen is "
    "at the limit of any permutation test: it can be described, and its members are named below, "
    "but a small q there should be read as a hint and a large one as no answer."
)

NO_GLOSSARY = (
    f"The store has no {GLOSSARY}, so the formulas of the metrics are missing here; `flatscale "
    "metrics` prints them."
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One chapter: words first, then figures, then tables."""

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[TableView, ...] = ()


def sections_of(content: Content) -> tuple[Section, ...]:
    """Every chapter the content has something for, in reading order."""
    chapters: list[Section] = []
    if content.analysis is not None:
        chapters += [make(content) for make in _ANALYSED]
    chapters += [_trials(content), _reference(content)]
    return tuple(c for c in chapters if c.charts or c.tables or c.points or c.paragraphs)


def _filled(*views: TableView | None) -> tuple[TableView, ...]:
    return tuple(view for view in views if view is not None and view.rows)


def _primary(content: Content) -> Section:
    x, y = content.primary
    return Section(
        key="primary",
        title=f"{y} against {x}",
        charts=charts_of(content, "primary"),
        tables=_filled(family_tables.robust_line_table(content)),
    )


def _families(content: Content) -> Section:
    return Section(
        key="families",
        title="Inside and across families",
        charts=charts_of(content, "families"),
        tables=_filled(
            family_tables.families_table(content),
            family_tables.synthesis_table(content),
            family_tables.left_out_table(content),
            family_tables.mixed_model_table(content),
        ),
    )


def _outliers(content: Content) -> Section:
    tables = _filled(
        family_tables.clusters_table(content),
        family_tables.members_table(content),
        family_tables.cluster_effects_table(content),
        family_tables.outlier_rows_table(content),
    )
    return Section(
        key="outliers",
        title="Networks that depart from the line",
        paragraphs=(TINY_CLUSTERS,) if tables else (),
        charts=charts_of(content, "outliers"),
        tables=tables,
    )


def _choices(content: Content) -> Section:
    return Section(
        key="choices",
        title="Other choices, parts of the study",
        tables=_filled(
            metric_tables.sensitivity_table(content), metric_tables.subsets_table(content)
        ),
    )


def _all_pairs(content: Content) -> Section:
    return Section(
        key="pairs",
        title="All pairs of metrics",
        charts=charts_of(content, "pairs"),
        tables=(main_tables.correlations_table(content),),
    )


def _outcomes(content: Content) -> Section:
    return Section(
        key="outcomes",
        title="Metrics and outcomes",
        charts=charts_of(content, "outcomes"),
        tables=_filled(
            metric_tables.outcomes_table(content),
            metric_tables.comparisons_table(content),
            metric_tables.granulated_table(content),
            metric_tables.mutual_information_table(content),
            metric_tables.sign_errors_table(content),
        ),
    )


def _measuring(content: Content) -> Section:
    return Section(
        key="measuring",
        title="Bounds and estimators",
        charts=charts_of(content, "measuring"),
        tables=_filled(
            metric_tables.bounds_table(content), metric_tables.reliability_table(content)
        ),
    )


def _training(content: Content) -> Section:
    return Section(
        key="training",
        title="Over training",
        charts=charts_of(content, "training"),
    )


def _questions(content: Content) -> Section:
    return Section(key="questions", title="Questions a reviewer asks", points=answers_of(content))


_ANALYSED = (
    _primary,
    _families,
    _outliers,
    _choices,
    _all_pairs,
    _outcomes,
    _measuring,
    _training,
    _questions,
)


def _trials(content: Content) -> Section:
    return Section(
        key="trials",
        title="Which networks are counted",
        paragraphs=content.notes,
        tables=_filled(
            main_tables.flow_table(content),
            main_tables.unused_table(content),
            main_tables.unconverged_table(content),
            metric_tables.excluded_table(content),
        ),
    )


def _reference(content: Content) -> Section:
    absent = content.glossary is None and content.flow is not None
    return Section(
        key="reference",
        title="Definitions and provenance",
        paragraphs=(NO_GLOSSARY,) if absent else (),
        tables=_filled(
            main_tables.glossary_table(content),
            main_tables.provenance_table(content),
            main_tables.columns_table(),
        ),
    )
