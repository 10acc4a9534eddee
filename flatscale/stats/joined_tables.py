"""Outcomes from another table: reading it, joining it by name, families from names."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flatscale.errors import StatsError
from flatscale.extras import needs
from flatscale.stats.sample import require_columns

logger = logging.getLogger(__name__)

FAMILY_PATTERN = r"^[A-Za-z]+"
"""The leading letters of a model's name: resnet of `resnet50.a1_in1k`, eva of `eva02_large`."""

# "0,100" is a decimal comma, not a thousands separator: no such number starts with 0.
_NUMBER = re.compile(r"[+-]?(([1-9]\d{0,2}(,\d{3})+|\d+)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_UNREADABLE = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    OSError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class OutcomeJoin:
    """A joined table and what did and did not match.

    Attributes:
        table: all rows of the left table, outcome columns null where nothing matched.
        num_matched: rows with an outcome.
        unmatched: keys of the left table without an outcome.
        unused: keys of the outcomes without a row.
        renamed: outcome columns renamed because the left table has one of that name.
        keys: the columns joined by.
        ambiguous: names with several outcomes, left without one.
    """

    table: pl.DataFrame
    num_matched: int
    unmatched: tuple[str, ...]
    unused: tuple[str, ...]
    renamed: dict[str, str]
    keys: tuple[str, ...]
    ambiguous: tuple[str, ...]

    def summary(self) -> str:
        """One sentence on what matched."""
        text = (
            f"joined on {', '.join(self.keys)}: {self.num_matched} of {self.table.height} rows "
            f"have an outcome; {len(self.unmatched)} names have none; {len(self.unused)} "
            "outcomes belong to no row"
        )
        if self.ambiguous:
            text += f"; {len(self.ambiguous)} names have several outcomes and were left without"
        return text


def read_table(path: str | Path) -> pl.DataFrame:
    """A CSV or Parquet table with text columns of numbers ("1,014.45", "+2") read as numbers.

    Raises:
        StatsError: the file does not exist, has another ending or cannot be parsed.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise StatsError(
            f"{path}: a table must end in .csv or .parquet, found {path.suffix or 'no ending'!r}"
        )
    if not path.is_file():
        raise StatsError(f"{path}: no such file")
    try:
        table = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    except _UNREADABLE as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise StatsError(f"{path}: cannot be read as a table: {said}") from error
    return parse_numbers(table)


def _read_csv(path: Path) -> pl.DataFrame:
    try:
        return pl.read_csv(path, infer_schema_length=None)
    except pl.exceptions.ComputeError:
        # Whole numbers beyond 128 bits: as text, which `parse_numbers` takes for real numbers.
        text = pl.read_csv(path, infer_schema=False)
        return text.with_columns(_whole(series) for series in text)


def _whole(series: pl.Series) -> pl.Series:
    numbers = series.cast(pl.Int64, strict=False)
    return numbers if numbers.null_count() == series.null_count() else series


def _read_parquet(path: Path) -> pl.DataFrame:
    """Read and checked by pyarrow: on some damaged files polars' own reader ends the process."""
    needs("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        arrow = pq.read_table(path)
        arrow.validate(full=True)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    table = pl.from_arrow(arrow)
    assert isinstance(table, pl.DataFrame)
    return table


def parse_numbers(table: pl.DataFrame) -> pl.DataFrame:
    """The table with every text column of numbers, thousands separators allowed, as Float64."""
    columns = []
    for series in table:
        known = series.drop_nulls() if series.dtype == pl.String else None
        if known is not None and len(known) and all(_is_number(text) for text in known):
            _say_if_ambiguous(known)
            values = [None if t is None else float(t.strip().replace(",", "")) for t in series]
            series = pl.Series(series.name, values, dtype=pl.Float64)
        columns.append(series)
    return pl.DataFrame(columns)


def _say_if_ambiguous(texts: pl.Series) -> None:
    """Thousands separators that may be decimal commas: no point, never two commas in a number."""
    commas = texts.str.count_matches(",", literal=True)
    if commas.max() == 1 and not texts.str.contains(".", literal=True).any():
        first = texts.filter(commas == 1)[0].strip()
        value = float(first.replace(",", ""))
        logger.warning(
            f"column {texts.name!r}: {first!r} is read as {value:g}; if its commas are decimal, "
            "write points"
        )


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text.strip()) is not None


def join_outcomes(
    df: pl.DataFrame,
    outcomes: pl.DataFrame,
    on: str,
    *,
    outcomes_on: str | None = None,
    suffix: str = "_outcome",
) -> OutcomeJoin:
    """Join outcomes to the rows of `df` by name, reporting what matched and what did not.

    Several rows may share a name. Where names repeat among the outcomes (one network tested at
    two image sizes), the common column that tells all repeats apart and matches most rows becomes
    a second key; names that none tells apart get no outcome and are listed.

    Args:
        df: one row a network.
        outcomes: the table to join.
        on: the column of names in both tables.
        outcomes_on: the column of names where the outcomes call it otherwise.
        suffix: added to an outcome column that `df` has too.

    Raises:
        StatsError: a column is missing, or nothing matches.
    """
    right_key = outcomes_on or on
    require_columns(df, [on])
    require_columns(outcomes, [right_key])
    right = outcomes.rename({right_key: on}) if right_key != on else outcomes
    right = right.filter(pl.col(on).is_not_null())
    keys, ambiguous = _join_keys(df, right, on)
    left = df.with_columns(_key(keys).alias("_key"))
    right = right.with_columns(_key(keys).alias("_key"), pl.lit(True).alias("_matched"))
    right = right.filter(~pl.col(on).cast(pl.String).is_in(list(ambiguous))).drop(keys)
    renamed = {c: f"{c}{suffix}" for c in right.columns if c in df.columns}
    taken = [name for name in renamed.values() if name in df.columns or name in right.columns]
    if taken:
        raise StatsError(f"outcome column {taken[0]!r} exists already; choose another suffix")
    joined = left.join(right.rename(renamed), on="_key", how="left", maintain_order="left")
    matched = joined["_matched"].fill_null(False)
    if not matched.any():
        examples = f"{df[on].head(1).to_list()} against {outcomes[right_key].head(1).to_list()}"
        raise StatsError(
            f"no value of {on!r} occurs among the outcomes' names (for example {examples})"
        )
    missing = joined.filter(~matched)["_key"].drop_nulls().unique().sort()
    unused = right.filter(~pl.col("_key").is_in(left["_key"].drop_nulls().to_list()))["_key"].sort()
    return OutcomeJoin(
        table=joined.drop("_key", "_matched"),
        num_matched=int(matched.sum()),
        unmatched=tuple(missing.to_list()),
        unused=tuple(unused.to_list()),
        renamed=renamed,
        keys=tuple(keys),
        ambiguous=ambiguous,
    )


def _key(columns: list[str]) -> pl.Expr:
    """One text per row from the key columns; null where one is missing."""
    return pl.concat_str([pl.col(c).cast(pl.String) for c in columns], separator=" @ ")


def _join_keys(
    left: pl.DataFrame, right: pl.DataFrame, on: str
) -> tuple[list[str], tuple[str, ...]]:
    """Columns to join on, and the names that stay ambiguous."""
    repeated = right.filter(pl.col(on).is_duplicated())
    if repeated.is_empty():
        return [on], ()
    best, most = None, 0
    for column in right.columns:
        if column == on or column not in left.columns:
            continue
        if right.select(_key([on, column])).to_series().is_duplicated().any():
            continue
        wanted = left.select(_key([on, column])).to_series()
        found = int(wanted.is_in(right.select(_key([on, column])).to_series().to_list()).sum())
        if found > most:
            best, most = column, found
    if best is not None:
        return [on, best], ()
    names = repeated[on].cast(pl.String).unique().sort()
    return [on], tuple(names.to_list())


def family_from_name(
    df: pl.DataFrame, name: str, *, pattern: str = FAMILY_PATTERN, family: str = "family"
) -> pl.DataFrame:
    """The table with a column of families taken from names.

    A family is what `pattern` matches in the name, or the pattern's first group if it has one. A
    name that the pattern does not match is its own family; they are counted in a warning.

    Args:
        df: one row a network.
        name: the column of names.
        pattern: by default the leading letters, up to the first digit, underscore, dot or hyphen.
        family: the column to add.

    Raises:
        StatsError: the pattern is no regular expression or matches no name, or the table has the
            column already.
    """
    if family in df.columns:
        raise StatsError(f"the table has a column {family!r} already; name another")
    families, note = families_in(df, name, pattern)
    if note:
        logger.warning(note)
    return df.with_columns(pl.Series(family, families, dtype=pl.String))


def families_in(
    df: pl.DataFrame, name: str, pattern: str = FAMILY_PATTERN
) -> tuple[list[str | None], str | None]:
    """The family of every row, as in `family_from_name`, and a sentence on names without one."""
    require_columns(df, [name])
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise StatsError(
            f"family pattern {pattern!r} is not a regular expression: {error}"
        ) from error
    group = 1 if compiled.groups else 0
    names = df[name].cast(pl.String).to_list()
    found = [compiled.search(text) if text is not None else None for text in names]
    families = [match.group(group) if match else None for match in found]
    known = [text for text in names if text is not None]
    alone = [t for t, of in zip(names, families, strict=True) if t is not None and not of]
    if len(alone) == len(known) > 0:
        raise StatsError(
            f"the family pattern {pattern!r} matches none of the {len(known)} names in column "
            f"{name!r} (for example {known[0]!r}): every row would be a family of its own"
        )
    note = (
        f"The family pattern {pattern!r} does not match {len(alone)} of {len(known)} names in "
        f"column {name!r}, each of which is a family of its own: {', '.join(alone[:20])}"
        f"{f' and {len(alone) - 20} more' if len(alone) > 20 else ''}."
    )
    both = zip(names, families, strict=True)
    return [of or text for text, of in both], note if alone else None
