"""What a report is made of, whether it comes from a results store or from any table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from flatscale.errors import StoreError
from flatscale.report.content.flow import Flow
from flatscale.stats import TABLES, StudyAnalysis

TRAJECTORY_SCHEMA = pl.Schema(
    {
        "label": pl.String(),
        "family": pl.String(),
        "step": pl.Int64(),
        "metric": pl.String(),
        "value": pl.Float64(),
        "std_error": pl.Float64(),
    }
)
"""One row per trial, snapshot and metric."""

MOMENT_SCHEMA = pl.Schema({"label": pl.String(), "step": pl.Int64()})
LAYER_SCHEMA = pl.Schema(
    {
        "label": pl.String(),
        "family": pl.String(),
        "step": pl.Int64(),
        "metric": pl.String(),
        "layer": pl.String(),
        "value": pl.Float64(),
        "num_points": pl.Int64(),
    }
)
"""One row per trial, snapshot, metric and layer, in forward order."""

BOUND_SCHEMA = pl.Schema(
    {
        "name": pl.String(),
        "family": pl.String(),
        "bound": pl.String(),
        "log10_ratio": pl.Float64(),
        "num_points": pl.Int64(),
        "violations": pl.Float64(),
        "shared_violations": pl.Float64(),
    }
)
"""One row per used trial and bound: log10(bound/metric), 0 is tight; and how often the inequality
failed, for the unrolled layer and for the paper's weight-shared form, where that was counted."""


MAX_MARKERS = 28
"""Families that a reader can still tell apart by colour and marker."""
OTHER = "other families"
ONE_FAMILY = "all networks"
"""Stands for the family of rows that have none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """Everything the page, the paper's files and the machine-readable findings are written from.

    Attributes:
        title: name of the study or of the table.
        question: what is asked, in the words of whoever asked.
        primary: the declared (x, y) pair.
        log: columns analysed as log10.
        metrics: columns correlated with each other.
        outcomes: columns predicted.
        hyperparameters: columns of the design, for colouring.
        family: column of the family.
        label: column that names a row.
        rows: one row a used trial (or row of the table), with `name`, what a hover shows first.
        analysis: every statistical table; None when nothing could be analysed, and then `problem`.
        problem: why there is no analysis, in a sentence.
        flow: what became of every planned trial; None for a table flatscale did not make.
        notes: what else a reader must know (how tables were joined, what did not match).
        trajectories: TRAJECTORY_SCHEMA; empty when measured only at the end.
        layers: LAYER_SCHEMA, of the metrics of the information plane.
        interpolated: for each trial that was seen to know its training set, its label and the step
            from which on it did.
        bounds: BOUND_SCHEMA; empty when no bound was measured.
        glossary: one mapping per metric, as a run wrote it; None when the store has none.
        provenance: name -> value, in order.
    """

    title: str
    question: str
    primary: tuple[str, str]
    log: tuple[str, ...]
    metrics: tuple[str, ...]
    outcomes: tuple[str, ...]
    hyperparameters: tuple[str, ...]
    family: str | None
    label: str
    rows: pl.DataFrame
    analysis: StudyAnalysis | None
    problem: str | None = None
    flow: Flow | None = None
    notes: tuple[str, ...] = ()
    trajectories: pl.DataFrame = field(default_factory=TRAJECTORY_SCHEMA.to_frame)
    layers: pl.DataFrame = field(default_factory=LAYER_SCHEMA.to_frame)
    interpolated: pl.DataFrame = field(default_factory=MOMENT_SCHEMA.to_frame)
    bounds: pl.DataFrame = field(default_factory=BOUND_SCHEMA.to_frame)
    glossary: tuple[Mapping[str, Any], ...] | None = None
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def families(self) -> tuple[str, ...]:
        """Families of the used rows, the largest first, so that it gets the plainest marker."""
        if self.family is None or self.rows.is_empty():
            return ()
        counted = self.rows.group_by(self.family).len().drop_nulls()
        return tuple(counted.sort(["len", self.family], descending=[True, False])[self.family])

    @property
    def shown_families(self) -> tuple[str, ...]:
        """Families with a marker of their own; where there are too many, the last is OTHER."""
        families = self.families
        return families if len(families) <= MAX_MARKERS else (*families[: MAX_MARKERS - 1], OTHER)

    def shown_family(self, column: str | None = None) -> pl.Expr:
        """The family of each row as figures name it: its own, or OTHER.

        Args:
            column: where a frame holds the family; the column of `rows` by default.
        """
        if self.family is None:
            return pl.lit(ONE_FAMILY)
        family = pl.col(column or self.family).cast(pl.String).fill_null("(missing)")
        if len(self.families) <= MAX_MARKERS:
            return family
        return pl.when(family.is_in(self.shown_families)).then(family).otherwise(pl.lit(OTHER))

    def table(self, name: str) -> pl.DataFrame:
        """A table of the analysis; empty, with its columns, when there is no analysis."""
        if self.analysis is None:
            return TABLES[name].frame()
        return self.analysis[name]

    def of_primary(self, name: str) -> pl.DataFrame:
        """The rows of a table that concern the primary pair."""
        table = self.table(name)
        x, y = self.primary
        return table.filter(pl.col("x") == x, pl.col("y") == y)


def read_glossary(path: Path) -> tuple[Mapping[str, Any], ...] | None:
    """The metric glossary a run wrote, or None when it wrote none.

    Raises:
        StoreError: the file is there and is no list of objects with a name.
    """
    content = _read_json(path)
    if content is None:
        return None
    if not isinstance(content, list) or not all(
        isinstance(item, dict) and "name" in item for item in content
    ):
        raise StoreError(f"{path} must hold a JSON list of objects with a name; write it anew")
    return tuple(content)


def read_provenance(path: Path) -> dict[str, str]:
    """The provenance a run wrote; empty when it wrote none.

    Raises:
        StoreError: the file is there and is no JSON object.
    """
    content = _read_json(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise StoreError(f"{path} must hold a JSON object of name to text; write it anew")
    return {str(name): str(value) for name, value in content.items()}


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read: {error}. Delete it or run the study again"
        ) from error
