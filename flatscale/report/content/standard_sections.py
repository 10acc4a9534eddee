"""The sections of every report, in reading order: one question, its sentence, what it rests on."""

from __future__ import annotations

from flatscale.report.content import derived_tables as derived
from flatscale.report.content import page_tables as tables
from flatscale.report.content.flow import FLOW, UNCONVERGED, UNUSED
from flatscale.report.content.page_tables import page_tables
from flatscale.report.content.report_content import Content
from flatscale.report.content.section import Section, section
from flatscale.report.content.table_view import table_view
from flatscale.report.words import course_of_training as course
from flatscale.report.words import robustness as robust
from flatscale.report.words import study_wide
from flatscale.report.words.clusters import scan_sentence
from flatscale.report.words.summary import (
    headline_row,
    levels_sentence,
    reconciled,
    stronger_level,
    used_sentence,
)
from flatscale.store.layout import GLOSSARY

WHO_PICKED = (
    "Outliers are sought by a scan over all families and both sides of the line, with a fixed "
    "error rate; no network was picked by hand and none was removed."
)
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


@section("primary", title="The primary pair", folded=False)
def primary(content: Content) -> Section:
    """The pair declared in advance: the scatter with its line, and whether the answer stays."""
    x, y = content.primary
    return Section(title=f"{y} against {x}", tables=(derived.robustness_table(content),))


@section("families", title="Does it hold inside families, or only across them?")
def families(content: Content) -> Section | None:
    """Who carries the correlation."""
    shown = ("family_correlations", "synthesis", "mixed_model")
    row = headline_row(content)
    if content.family is None or row is None:
        return None
    known = row["within"] is not None and row["between"] is not None
    stronger = f" {stronger_level(row)}" if known else ""
    why = reconciled(content)
    return Section(
        sentence=f"{levels_sentence(content)}{stronger}",
        paragraphs=(f"{why} The mixed model gives both slopes in one fit.".strip(),),
        tables=page_tables(content, *shown),
    )


@section("leave_one_out", title="Does one family carry it?")
def leave_one_out(content: Content) -> Section | None:
    """Pooled r without each family, where some are left."""
    said = robust.influence_sentence(content)
    shown = page_tables(content, "leave_one_out")
    return Section(sentence=said, tables=shown) if said else None


@section("independence", title="Are these networks independent?")
def independence(content: Content) -> Section:
    """What the interval would be if they were."""
    return Section(sentence=robust.independence_sentence(content))


@section("outliers", title="Who departs from the line, and who says so?")
def outliers(content: Content) -> Section:
    """The family scan, and single networks far from the line."""
    clusters, effects, rows = page_tables(content, "clusters", "cluster_effects", "outlier_rows")
    shown = (clusters, tables.members_table(content), effects, rows)
    words = (WHO_PICKED, TINY_CLUSTERS) if any(view.rows for view in shown) else ()
    return Section(sentence=scan_sentence(content), paragraphs=words, tables=shown)


@section("choices", title="Would other choices have changed the answer?")
def choices(content: Content) -> Section:
    """The specification curve, and its permutation test."""
    return Section(
        sentence=robust.choices_sentence(content),
        tables=page_tables(content, "multiverse_summary", "multiverse"),
    )


@section("scale", title="Is it the scale?")
def scale(content: Content) -> Section:
    """Which scale was declared, its skewness, and what the others say."""
    return Section(sentence=robust.scale_sentence(content), tables=page_tables(content, "scales"))


@section("line", title="What is the slope, and is the relation a line?")
def line(content: Content) -> Section:
    """The robust line and the check of linearity."""
    return Section(
        sentence=robust.line_sentence(content),
        tables=page_tables(content, "robust_line", "linearity"),
    )


@section("estimators", title="Do other estimators agree?")
def estimators(content: Content) -> Section:
    """Robust, rank, bootstrapped and shuffled values."""
    return Section(
        sentence=robust.estimators_sentence(content), tables=(derived.estimators_table(content),)
    )


@section("adjusted", title="Is it a covariate, or measurement error?")
def adjusted(content: Content) -> Section:
    """Partial and error-corrected correlations."""
    return Section(
        sentence=robust.adjusted_sentence(content),
        tables=(derived.estimators_table(content, "partial", "disattenuated"),),
    )


@section("smallness", title="Is it too small to matter?")
def smallness(content: Content) -> Section:
    """The equivalence tests."""
    return Section(
        sentence=robust.smallness_sentence(content), tables=page_tables(content, "equivalence")
    )


@section("needed", title="How large would a study have to be?")
def needed(content: Content) -> Section:
    """Families, configurations or seeds for an interval of a wanted width."""
    return Section(
        sentence=robust.needed_sentence(content), tables=page_tables(content, "required_numbers")
    )


@section("controls", title="Would a column that cannot matter have passed?")
def controls(content: Content) -> Section:
    """The negative controls."""
    return Section(
        sentence=robust.controls_sentence(content), tables=page_tables(content, "negative_controls")
    )


@section("parts", title="Does it hold in each part of the study?")
def parts(content: Content) -> Section:
    """Data sets and networks one by one."""
    return Section(sentence=robust.parts_sentence(content), tables=page_tables(content, "subsets"))


@section("pairs", title="How many pairs were tested, and which go together?")
def pairs(content: Content) -> Section:
    """Every metric with every other."""
    return Section(
        sentence=study_wide.pairs_sentence(content), tables=(tables.correlations_table(content),)
    )


@section("outcomes", title="Is generalization shown, or only claimed?")
def outcomes(content: Content) -> Section:
    """Which metric goes with what one wants to predict."""
    return Section(
        sentence=study_wide.outcomes_sentence(content),
        tables=page_tables(content, "outcome_associations", "comparisons"),
    )


@section("hyperparameters", title="Is a hyperparameter behind both?")
def hyperparameters(content: Content) -> Section:
    """Granulated Kendall, information beyond the hyperparameters, sign errors."""
    return Section(
        sentence=study_wide.hyperparameters_sentence(content),
        tables=page_tables(content, "granulated", "mutual_information", "sign_errors"),
    )


@section("invariance", title="Does it survive a reparametrization?")
def invariance(content: Content) -> Section:
    """Which metrics are invariant, and whether they correlate as the others do."""
    return Section(
        sentence=study_wide.invariance_sentence(content),
        tables=(derived.invariance_table(content),),
    )


@section("bounds", title="How loose are the bounds, old against new?")
def bounds(content: Content) -> Section:
    """Bounds against what they bound, and against each other."""
    return Section(
        sentence=study_wide.bounds_sentence(content), tables=(tables.bounds_table(content),)
    )


@section("measuring", title="How well is each metric measured?")
def measuring(content: Content) -> Section:
    """Reliability and convergence."""
    return Section(
        sentence=study_wide.precision_sentence(content), tables=page_tables(content, "reliability")
    )


@section("training", title="What happens over training?")
def training(content: Content) -> Section:
    """Metrics from snapshot to snapshot."""
    return Section(sentence=course.training_sentence(content))


@section("information", title="Do layers first fit, then compress?")
def information(content: Content) -> Section | None:
    """The information plane, where it was measured over training."""
    said = course.information_sentence(content)
    return Section(sentence=said, paragraphs=course.LIMITS) if said else None


@section("breadth", title="More than two classes, more than one optimizer?")
def breadth(content: Content) -> Section:
    """How far the conclusions reach."""
    return Section(sentence=study_wide.breadth_sentence(content))


@section("trials", title="Which networks are counted?", without_statistics=True)
def trials(content: Content) -> Section:
    """From the plan to the statistics, and the networks that did not get there."""
    flow = content.flow
    followed = () if flow is None else (
        table_view(FLOW, flow.stages),
        table_view(UNUSED, flow.not_used),
        table_view(UNCONVERGED, flow.unconverged),
    )  # fmt: skip
    return Section(
        sentence=used_sentence(content),
        paragraphs=content.notes,
        tables=(*followed, tables.excluded_table(content)),
    )


@section("reference", title="Definitions and provenance", without_statistics=True)
def reference(content: Content) -> Section:
    """Formulas, versions, and the columns of the data files."""
    absent = content.glossary is None and content.flow is not None
    facts = (tables.glossary_table(content), tables.provenance_table(content))
    return Section(
        sentence="What each column is, how it is computed, and what these numbers were made from.",
        paragraphs=(NO_GLOSSARY,) if absent else (),
        tables=(*facts, tables.columns_table()),
    )
