"""A whole study: every table the report shows, from one table with one row a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from flatscale.stats.design import StudyDesign, check_design
from flatscale.stats.tables import (  # noqa: F401  imported for the tables they declare, in this order
    against_outcomes,
    all_findings,
    between_families,
    beyond_hyperparameters,
    by_family,
    conclusions,
    flagged_clusters,
    line_and_band,
    metrics_together,
    multiverse,
    subsets,
)  # fmt: skip  # isort: skip
from flatscale.stats.tables.declaration import TABLES
from flatscale.stats.tables.study_data import StudyData


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyAnalysis(Mapping[str, pl.DataFrame]):
    """The result of `analyze_study`: every table of `TABLES` by its name, also as an attribute.

    Every table has all its columns, possibly no rows.

    Attributes:
        design: what was declared.
        num_rows: rows of the table analysed.
        frames: the tables by name.
    """

    design: StudyDesign
    num_rows: int
    frames: Mapping[str, pl.DataFrame]

    def __getitem__(self, name: str) -> pl.DataFrame:
        return self.frames[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __getattr__(self, name: str) -> pl.DataFrame:
        # An instance that is being unpickled has no frames yet.
        if name in self.__dict__.get("frames", ()):
            return self.frames[name]
        raise AttributeError(f"the analysis has no table {name!r}; it has {', '.join(TABLES)}")


def analyze_study(table: pl.DataFrame, design: StudyDesign) -> StudyAnalysis:
    """Analyse a study; whatever cannot be computed is a null row with its reason.

    Args:
        table: one row a trial, one column a metric, outcome, hyperparameter, family, label. A
            metric column `m` may have the companions `m__std_error` and `m__converged`.
        design: what is analysed, and how.

    Returns:
        Every registered table.

    Raises:
        StatsError: a declared column does not exist or holds no numbers, or a label occurs twice.
    """
    check_design(table, design)
    study = StudyData(table, design)
    frames = {}
    for name, declared in TABLES.items():
        made = declared.function(study)
        frames[name] = made if isinstance(made, pl.DataFrame) else declared.frame(made)
    return StudyAnalysis(design=design, num_rows=table.height, frames=frames)
