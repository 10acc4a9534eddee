"""A study of networks that are a table already: `table:` in the place of models and a design."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from flatscale.study.declared import AnalysisConfig
from flatscale.study.identity import content_hash, identifying_content
from flatscale.study.parts import OptionValue, Part


class JoinedTable(Part):
    """Another table, whose columns become outcomes of the rows."""

    path: str
    """CSV or Parquet."""
    by: tuple[str, ...] = ()
    """Columns that name a network in both tables; at least one is needed."""


class TableConfig(Part):
    """A table, one row a network, and what its columns are."""

    path: str
    """CSV or Parquet; relative to the current folder. Not part of the study's hash."""
    family: str | None = None
    """Column of each row's family; without one, rows count as independent."""
    family_from: str | None = None
    """Column of names whose beginning is the family, instead of `family`."""
    family_pattern: str | None = None
    """Regular expression for `family_from`; the leading letters by default."""
    configuration: tuple[str, ...] = ()
    """Columns that replicates (seeds) agree in."""
    label: tuple[str, ...] = ()
    """Columns that name a row together; those of `joined.by` or `family_from` by default."""
    columns: tuple[str, ...] = ()
    """Further columns to hold against the primary pair, each other and the outcomes."""
    std_errors: dict[str, str] = Field(default_factory=dict)
    """Column of the primary pair to the column of its standard errors."""
    where: dict[str, tuple[OptionValue, ...]] = Field(default_factory=dict)
    """Column to the values whose rows are kept; all rows by default."""
    joined: JoinedTable | None = None
    """Another table; `analysis.outcomes` names which of its columns are outcomes, those found by
    default."""


class TableAnalysis(AnalysisConfig):
    """What the report concludes about; a table has no pair and no outcomes by default."""

    primary: tuple[str, str]
    """The one pair (x, y) that is not corrected for multiple tests."""
    outcomes: tuple[str, ...] = ()
    """Columns that the others are correlated with."""

    @field_validator("require_interpolation")
    @classmethod
    def _not_of_a_table(cls, wanted: bool) -> bool:
        if wanted:
            raise ValueError("a table does not say which networks interpolate; use table.where")
        return wanted


class TableStudy(Part):
    """An analysis of a table that flatscale did not make."""

    name: str = Field(min_length=1)
    """Heading of the report; names its folder."""
    description: str = ""
    """What is asked, in a sentence."""
    profile: str | None = None
    """Written by flatscale: which of the study file's `profiles` was written over it."""
    table: TableConfig
    """The table."""
    analysis: TableAnalysis
    """Analysis."""

    @property
    def content_hash(self) -> str:
        """SHA-256 of the validated study, 16 hex digits."""
        return content_hash(identifying_content(self))

    def shown(self) -> dict[str, Any]:
        """The study as it may be stored and printed."""
        return self.model_dump(mode="json")
