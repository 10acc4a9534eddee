"""The sections of every report, in reading order."""

from __future__ import annotations

from flatscale.report.content import page_tables as tables
from flatscale.report.content.flow import FLOW, UNCONVERGED, UNUSED
from flatscale.report.content.page_tables import page_tables
from flatscale.report.content.report_content import Content
from flatscale.report.content.section import Section, section
from flatscale.report.content.table_view import table_view
from flatscale.report.words.reviewer_questions import answers_of
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


@section("primary", title="The primary pair")
def primary(content: Content) -> Section:
    """The pair declared in advance: the scatter and its robust line."""
    x, y = content.primary
    return Section(title=f"{y} against {x}", tables=page_tables(content, "robust_line"))


@section("families", title="Inside and across families")
def families(content: Content) -> Section:
    """Who carries the correlation."""
    shown = ("family_correlations", "synthesis", "leave_one_out", "mixed_model")
    return Section(tables=page_tables(content, *shown))


@section("outliers", title="Networks that depart from the line")
def outliers(content: Content) -> Section:
    """The family scan, and single networks far from the line."""
    clusters, effects, line, rows = page_tables(
        content, "clusters", "cluster_effects", "linearity", "outlier_rows"
    )
    shown = (clusters, tables.members_table(content), effects, line, rows)
    words = (TINY_CLUSTERS,) if any(view.rows for view in shown) else ()
    return Section(paragraphs=words, tables=shown)


@section("choices", title="Other choices, parts of the study")
def choices(content: Content) -> Section:
    """Whether another scale or another set of networks gives another answer."""
    return Section(tables=page_tables(content, "sensitivity", "subsets"))


@section("pairs", title="All pairs of metrics")
def pairs(content: Content) -> Section:
    """Every metric with every other."""
    return Section(tables=(tables.correlations_table(content),))


@section("outcomes", title="Metrics and outcomes")
def outcomes(content: Content) -> Section:
    """Which metric goes with what one wants to predict."""
    shown = ("outcome_associations", "comparisons", "granulated", "mutual_information")
    return Section(tables=page_tables(content, *shown, "sign_errors"))


@section("measuring", title="Bounds and estimators")
def measuring(content: Content) -> Section:
    """How loose the bounds are and how well each metric is measured."""
    return Section(tables=(tables.bounds_table(content), *page_tables(content, "reliability")))


@section("training", title="Over training")
def training(content: Content) -> Section:
    """Metrics from snapshot to snapshot."""
    return Section()


@section("questions", title="Questions a reviewer asks")
def questions(content: Content) -> Section:
    """What reviewers ask, answered from the tables."""
    return Section(points=answers_of(content))


@section("trials", title="Which networks are counted", without_statistics=True)
def trials(content: Content) -> Section:
    """From the plan to the statistics, and the networks that did not get there."""
    flow = content.flow
    followed = () if flow is None else (
        table_view(FLOW, flow.stages),
        table_view(UNUSED, flow.not_used),
        table_view(UNCONVERGED, flow.unconverged),
    )  # fmt: skip
    return Section(paragraphs=content.notes, tables=(*followed, tables.excluded_table(content)))


@section("reference", title="Definitions and provenance", without_statistics=True)
def reference(content: Content) -> Section:
    """Formulas, versions, and the columns of the data files."""
    absent = content.glossary is None and content.flow is not None
    facts = (tables.glossary_table(content), tables.provenance_table(content))
    return Section(
        paragraphs=(NO_GLOSSARY,) if absent else (), tables=(*facts, tables.columns_table())
    )
