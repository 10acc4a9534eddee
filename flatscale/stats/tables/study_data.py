"""What the tables of a study are filled from; whatever several tables need is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import polars as pl

from flatscale.stats.design import StudyDesign, pair_sample
from flatscale.stats.estimators.multiplicity import adjust
from flatscale.stats.sample import Sample
from flatscale.stats.tables.declaration import Row

Made = TypeVar("Made")


class StudyData:
    """A study's rows, its design, and the pairs of metrics as samples.

    Args:
        table: one row a trial, one column a metric, outcome, hyperparameter, family, label.
        design: what was declared.

    Attributes:
        samples: the usable rows of every pair of metrics, the pairs analysed in depth first.
    """

    def __init__(self, table: pl.DataFrame, design: StudyDesign) -> None:
        self.table = table
        self.design = design
        self.samples = {pair: pair_sample(table, design, *pair) for pair in design.all_pairs}
        self._made: dict[Any, Any] = {}

    @property
    def primary(self) -> Sample:
        """The usable rows of the primary pair."""
        return self.samples[self.design.primary]

    @property
    def in_depth(self) -> tuple[Sample, ...]:
        """The samples of the pairs analysed in depth, the primary pair first."""
        return tuple(self.samples[pair] for pair in self.design.deep_pairs)

    def once(self, make: Callable[..., Made], *of: Any) -> Made:
        """`make(study, *of)`, computed the first time it is asked for."""
        if (make, *of) not in self._made:
            self._made[make, *of] = make(self, *of)
        return self._made[make, *of]


def pair_of(sample: Sample) -> Row:
    """The columns that name the pair of a sample."""
    return {"x": sample.x_name, "y": sample.y_name}


def with_q_values(rows: Iterable[Row], *, p: str = "p_value", q: str = "q_value") -> list[Row]:
    """Rows with Benjamini-Hochberg adjusted p-values over all of them."""
    rows = list(rows)
    adjusted = adjust([row[p] for row in rows])
    return [row | {q: value} for row, value in zip(rows, adjusted, strict=True)]
