"""Sections about prediction beyond the hyperparameters, moderators and partial pooling."""

from __future__ import annotations

from flatscale.report.content import standard_sections  # noqa: F401  the sections they follow
from flatscale.report.content.page_tables import page_tables
from flatscale.report.content.report_content import Content
from flatscale.report.content.section import Section, section
from flatscale.report.words import modelled


@section("gain", title="Does it say more than the hyperparameters?", after="hyperparameters")
def gain(content: Content) -> Section:
    """The outcome predicted out of fold, with and without each metric."""
    return Section(
        sentence=modelled.gain_sentence(content),
        tables=page_tables(content, "gain_beyond_hyperparameters"),
    )


@section("moderators", title="What explains the differences between families?", after="families")
def moderators(content: Content) -> Section:
    """Meta-regression over families."""
    return Section(
        sentence=modelled.moderators_sentence(content),
        tables=page_tables(content, "meta_regression"),
    )


@section("pooling", title="What does a Bayesian say, and how much is its prior?", after="families")
def pooling(content: Content) -> Section:
    """Partial pooling with stated priors and their sensitivity."""
    return Section(
        sentence=modelled.pooling_sentence(content), tables=page_tables(content, "partial_pooling")
    )
