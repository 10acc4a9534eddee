"""From any table with one row a network to the content of a report."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flatscale.errors import StatsError
from flatscale.report.content.report_content import Content
from flatscale.stats import (
    OutcomeJoin,
    StudyDesign,
    analyze_study,
    join_outcomes,
    read_table,
)
from flatscale.stats.column_roles import column_roles
from flatscale.stats.design import pair_sample
from flatscale.stats.row_notes import row_notes
from flatscale.stats.sample import (
    error_column,
    numeric_column,
    require_columns,
    size_problem,
    to_scale,
)

logger = logging.getLogger(__name__)

ROW = "row"
_LISTED = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """A table with outcomes joined to it.

    Attributes:
        table: every row of the table, outcomes null where nothing matched.
        outcomes: the columns that were added and are outcomes.
        label: the column that names each row once, if the key does.
        notes: what matched and what did not, in sentences.
    """

    table: pl.DataFrame
    outcomes: tuple[str, ...]
    label: str | None
    notes: tuple[str, ...]


def content_of_table(
    table: pl.DataFrame,
    design: StudyDesign,
    *,
    title: str,
    errors: Mapping[str, str | None],
    notes: Sequence[str] = (),
) -> Content:
    """Analyse a pair of columns, and both against every outcome.

    Args:
        table: one row a network.
        design: what is analysed; without a label, rows are numbered.
        title: heading of the report.
        errors: column of the primary pair -> column of its standard errors, or None.
        notes: what a reader must know besides.

    Raises:
        StatsError: the table is empty, a column is missing or holds no numbers, a label occurs
            twice.
    """
    chosen = (*design.log, *design.covariates, *design.outcomes)
    named = (design.family, *design.configuration, design.label, *errors.values())
    require_columns(table, [*design.primary, *named, *chosen])
    if table.is_empty():
        raise StatsError("the table has no rows; at least 3 are needed")
    taken = (*design.all_metrics, *design.outcomes, *design.covariates, design.family)
    if "name" in taken and design.label != "name":
        raise StatsError("a column called 'name' can only name the rows here; rename it")
    rows, label = table, design.label
    if label is None:
        label = ROW
        rows = rows.with_columns(pl.format("row {}", pl.int_range(1, pl.len() + 1)).alias(ROW))
        design = replace(design, label=ROW)
    # Under the names where the statistics look for them.
    rows = rows.with_columns(
        pl.col(label).cast(pl.String).alias("name"),
        *(pl.col(name).cast(pl.String) for name in [design.family] if name is not None),
        *(
            pl.Series(f"{column}__std_error", error_column(table, error)).fill_nan(None)
            for column, error in errors.items()
            if error is not None
        ),
    )
    _refuse_sizes(rows, design)
    sample = pair_sample(rows, design, *design.primary)
    name_of_rows = None if label == ROW else label
    said = row_notes(table, sample, label=name_of_rows, errors=tuple(errors.values()))
    for note in said:
        logger.warning(note)
    return Content(
        title=title,
        question="",
        primary=design.primary,
        log=design.log,
        metrics=design.all_metrics,
        outcomes=design.outcomes,
        hyperparameters=tuple(dict.fromkeys((*design.covariates, *design.configuration))),
        family=design.family,
        label=label,
        rows=rows,
        analysis=analyze_study(rows, design),
        notes=(*notes, *said),
        provenance={"rows": str(rows.height), "table hash": table_hash(table)},
    )


def _refuse_sizes(rows: pl.DataFrame, design: StudyDesign) -> None:
    """Refuse columns that float64 can neither square nor draw."""
    for column in (*design.all_metrics, *design.outcomes):
        values, unusable = to_scale(numeric_column(rows, column), log=column in design.log)
        problem = size_problem(np.delete(values, list(unusable)))
        if problem:
            raise StatsError(f"column {column!r} {problem}")


def join_table(
    table: pl.DataFrame,
    outcomes: pl.DataFrame | str | Path,
    on: str | Sequence[str] | None,
    outcome_columns: Sequence[str] = (),
) -> Joined:
    """Join another table, or its file, by the column or columns that name a row in both.

    Its outcomes are `outcome_columns`, else those that `column_roles` finds.

    Raises:
        StatsError: a column is missing, a name occurs twice among the outcomes, nothing matches, no
            column is an outcome, or the file cannot be read.
    """
    if on is None:
        raise StatsError("joining outcomes needs `on`, the column of names in both tables")
    other = outcomes if isinstance(outcomes, pl.DataFrame) else read_table(outcomes)
    source = "the table of outcomes" if isinstance(outcomes, pl.DataFrame) else str(outcomes)
    keyed, key = with_key(table, on)
    other, _ = with_key(other, on)
    named = [on] if isinstance(on, str) else list(on)
    joined = join_outcomes(keyed, other.drop(name for name in named if name != key), key)
    roles = column_roles(
        joined.table,
        [name for name in joined.table.columns if name not in keyed.columns],
        keys=tuple(dict.fromkeys([*named, *(k for k in joined.keys if k != key)])),
        renamed={new: old for old, new in joined.renamed.items()},
    )
    said = f"Columns of {source} {roles.summary()}. Name others to have them taken (--outcome)."
    if not (outcome_columns or roles.outcomes):
        raise StatsError(said)
    if not outcome_columns:
        logger.warning(said)
    return Joined(
        table=joined.table,
        outcomes=tuple(outcome_columns) or roles.outcomes,
        label=None if keyed[key].is_duplicated().any() else key,
        notes=(*_join_notes(joined, key, source), *(() if outcome_columns else (said,))),
    )


def rows_where(
    table: pl.DataFrame, where: Mapping[str, Collection[Any]]
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The rows that have one of the values wanted in every column, and a sentence on the others.

    Raises:
        StatsError: the table lacks a column, or no row has such a value.
    """
    require_columns(table, list(where))
    notes = []
    for column, values in where.items():
        kept = table.filter(pl.col(column).is_in(list(values)))
        shown = ", ".join(map(str, values))
        if kept.is_empty():
            raise StatsError(f"no row has {shown} in column {column!r}")
        left = table.height - kept.height
        notes.append(f"{left} of {table.height} rows have no {shown} in {column!r}: left out.")
        table = kept
    return table, tuple(notes)


def with_key(table: pl.DataFrame, on: str | Sequence[str]) -> tuple[pl.DataFrame, str]:
    """The table with one column that names a row, and its name: several columns are joined.

    Raises:
        StatsError: the table lacks a column.
    """
    columns = [on] if isinstance(on, str) else list(on)
    require_columns(table, columns)
    if len(columns) == 1:
        return table, columns[0]
    key = " and ".join(columns)
    together = pl.concat_str([pl.col(name).cast(pl.String) for name in columns], separator=" · ")
    return table.with_columns(together.alias(key)), key


def _join_notes(joined: OutcomeJoin, on: str, source: str) -> tuple[str, ...]:
    """What matched when outcomes were joined, and the names that did not."""
    notes = [f"Outcomes were joined from {source} by {on}: {joined.summary()}."]
    for names, meaning in (
        (joined.unmatched, "Rows without an outcome (left out of the correlations with outcomes)"),
        (joined.unused, "Outcomes that belong to no row"),
    ):
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            notes.append(f"{meaning}: {', '.join(names[:_LISTED])}{more}.")
    notes += [
        f"The outcomes' column {old} is called {new} here, because the table has a {old}."
        for old, new in joined.renamed.items()
    ]
    return tuple(notes)


def table_hash(table: pl.DataFrame) -> str:
    """SHA-256 of a table's content as CSV, 16 hex digits."""
    flat = table.select(pl.col(name) for name, kind in table.schema.items() if not kind.is_nested())
    buffer = io.BytesIO()
    flat.write_csv(buffer)
    return hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
