"""Writing a report: everything is made in memory first, then each file whole or not at all."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from flatscale.errors import StatsError, StoreError
from flatscale.report.charts.draw import paper_figures
from flatscale.report.content import modelled_sections  # noqa: F401  registers the report's own
from flatscale.report.content.from_store import content_of_store
from flatscale.report.content.from_table import (
    content_of_table,
    join_table,
    rows_where,
    with_key,
)
from flatscale.report.content.report_content import Content, read_glossary
from flatscale.report.content.section import Section, sections_of
from flatscale.report.render.latex import render_document, render_table
from flatscale.report.render.page import render_page
from flatscale.report.words.summary import summary_of
from flatscale.stats import StudyDesign, family_from_name, read_table
from flatscale.stats.design import declared_variants
from flatscale.stats.joined_tables import FAMILY_PATTERN, families_in
from flatscale.store.atomic import write_atomically
from flatscale.store.layout import REPORT_PAGE, Layout
from flatscale.store.results import Store
from flatscale.study.table_study import TableStudy

logger = logging.getLogger(__name__)


_NOT_PRINTED = ("columns",)
"""Tables of the page that a paper has no use for."""


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """Where a report was written.

    Attributes:
        folder: the folder of all of it.
        page: report.html.
        latex: report.tex.
        findings: findings.json, every number of every table.
        files: every file written, the ones above included.
    """

    folder: Path
    page: Path
    latex: Path
    findings: Path
    files: tuple[Path, ...]


def write_study_report(store: str | Path | Store, *, out: Path | None = None) -> ReportPaths:
    """Statistics and report of a results store, from the store alone.

    Args:
        store: the store or its folder.
        out: where to write; the store's `report` folder by default.

    Raises:
        StoreError: this is not a store, a file in it is damaged, or the report cannot be written.
    """
    if not isinstance(store, Store):
        store = Store(store)
    return write_report(content_of_store(store), out or store.report)


def write_table_report(
    df: pl.DataFrame,
    *,
    x: str,
    y: str,
    out: str | Path,
    family: str | None = None,
    family_from: str | None = None,
    family_pattern: str | None = None,
    configuration: Sequence[str] = (),
    label: str | Sequence[str] | None = None,
    se_x: str | None = None,
    se_y: str | None = None,
    log: Collection[str] = (),
    covariates: Sequence[str] = (),
    outcomes: pl.DataFrame | str | Path | None = None,
    on: str | Sequence[str] | None = None,
    outcome_columns: Sequence[str] = (),
    columns: Sequence[str] = (),
    where: Mapping[str, Collection[Any]] | None = None,
    title: str = "table",
    question: str = "",
    provenance: Mapping[str, str] | None = None,
    glossary: str | Path | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    num_resamples: int = 2_000,
) -> ReportPaths:
    """Statistics and report of a table that flatscale did not make, one row a network.

    Args:
        df: the table.
        x, y: the primary pair of columns.
        out: the folder to write to; made if it does not exist.
        family: column of the family of each row; without it rows count as independent.
        family_from, family_pattern: column of names whose beginning (or what the pattern matches,
            see `family_from_name`) is the family, instead of `family`; it names the rows, too.
        configuration: columns of the hyperparameters; rows that agree in all of them (and the
            family) are replicates, and the configuration, not the row, counts as independent.
        label: column that names each row, or several that name it together; `on` where outcomes are
            joined by it, else row numbers.
        se_x, se_y: columns with the standard errors of x and y.
        log: columns analysed and drawn as log10.
        covariates: columns held fixed in partial correlations.
        outcomes: another table (or its file) to join; which of its columns become outcomes
            `column_roles` says, in the log and in the report.
        on: the column of names in both tables, or several columns that name a row together (a
            model and its image size); needed with `outcomes`.
        outcome_columns: which columns are outcomes, whatever they are called.
        columns: further columns to hold against the pair, each other and the outcomes.
        where: column -> the values whose rows are kept.
        title: heading of the report.
        question: what is asked, in a sentence.
        provenance: what the report is to say of its making besides.
        glossary: a store's `glossary.json`, for the columns that are metrics of flatscale.
        variants: metric -> columns that measure the same with other options.
        num_resamples: bootstrap and permutation resamples.

    Raises:
        StatsError: a column is missing or holds no numbers, nothing matches, a name occurs twice.
        StoreError: the report cannot be written, or the glossary is damaged.
    """
    table, notes = rows_where(df, where or {})
    if family_from is not None:
        pattern = family_pattern or FAMILY_PATTERN
        table, family = family_from_name(table, family_from, pattern=pattern), "family"
        _, note = families_in(table, family_from, pattern)
        notes = (*notes, note) if note else notes
        label = label or (family_from if outcomes is None else None)
    if outcomes is not None:
        joined = join_table(table, outcomes, on, outcome_columns)
        table, notes = joined.table, (*notes, *joined.notes)
        outcome_columns = joined.outcomes
        label = label or joined.label
    if label is not None:
        table, label = with_key(table, label)
    known = None if glossary is None else read_glossary(Path(glossary))
    design = StudyDesign(
        primary=(x, y),
        metrics=tuple(columns),
        family=family,
        configuration=tuple(configuration),
        label=label,
        log=tuple(log),
        covariates=tuple(covariates),
        outcomes=tuple(outcome_columns),
        variants=declared_variants(known or (), table.columns, variants or {}),
        num_resamples=num_resamples,
    )
    errors = {x: se_x, y: se_y}
    content = content_of_table(table, design, title=title, errors=errors, notes=notes)
    said = {**(provenance or {}), **content.provenance}
    content = replace(content, question=question, provenance=said, glossary=known)
    return write_report(content, Path(out))


def write_table_study(study: TableStudy, out: str | Path) -> ReportPaths:
    """Statistics and report of the table that a study file names; see `write_table_report`."""
    table, analysis, joined = study.table, study.analysis, study.table.joined
    x, y = analysis.primary
    if unknown := sorted(set(table.std_errors) - {x, y}):
        raise StatsError(f"table.std_errors: {unknown[0]!r} is not of the primary pair ({x}, {y})")
    # A store's own table has the formulas of its columns beside it.
    beside = Layout(Path(table.path).parent)
    return write_table_report(
        read_table(table.path),
        x=x,
        y=y,
        out=out,
        family=table.family,
        family_from=table.family_from,
        family_pattern=table.family_pattern,
        configuration=table.configuration,
        label=table.label or None,
        se_x=table.std_errors.get(x),
        se_y=table.std_errors.get(y),
        log=analysis.log,
        covariates=analysis.covariates,
        outcomes=joined.path if joined else None,
        on=(joined.by if joined else None) or None,
        outcome_columns=analysis.outcomes,
        variants=analysis.variants,
        columns=table.columns,
        where=table.where,
        title=study.name,
        question=study.description,
        glossary=beside.glossary if Path(table.path) == beside.table_file else None,
        provenance={"study": study.name, "config hash": study.content_hash},
        num_resamples=analysis.num_resamples,
    )


def write_report(content: Content, folder: Path) -> ReportPaths:
    """Render every part of a report and write it into a folder."""
    files = render_files(content)
    try:
        _remove_stale(folder, files)
        for name, body in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, body)
    except OSError as error:
        raise StoreError(f"cannot write the report to {folder}: {error}") from error
    logger.info("report written to %s", folder)
    return ReportPaths(
        folder=folder,
        page=folder / REPORT_PAGE,
        latex=folder / "report.tex",
        findings=folder / "findings.json",
        files=tuple(folder / name for name in files),
    )


def render_files(content: Content) -> dict[str, bytes]:
    """Every file of the report by its path in the folder; the page last."""
    sections = sections_of(content)
    views = tuple(view for section in sections for view in section.tables if view.rows)
    views = tuple(view for view in views if view.key not in _NOT_PRINTED)
    figures = paper_figures(content)
    files = {f"figures/{figure.name}.pdf": figure.pdf for figure in figures}
    files |= {f"figures/{figure.name}.svg": figure.svg for figure in figures}
    for view in views:
        files[f"tables/{view.key}.tex"] = render_table(view).encode()
    files["report.tex"] = render_document(content, sections, views, figures).encode()
    for name, frame in _tables(content).items():
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        files["findings.parquet" if name == "findings" else f"data/{name}.parquet"] = (
            buffer.getvalue()
        )
    names = sorted([*files, "findings.json", REPORT_PAGE])
    files["findings.json"] = _findings_json(content, sections, names)
    files[REPORT_PAGE] = render_page(content, sections).encode()
    return files


def _remove_stale(folder: Path, files: Mapping[str, bytes]) -> None:
    """Remove what an earlier report wrote here and this one does not; nothing else is touched."""
    manifest = folder / "findings.json"
    if not manifest.is_file():
        return
    try:
        earlier = json.loads(manifest.read_text(encoding="utf-8")).get("files", [])
    except (ValueError, AttributeError):
        logger.warning("%s is damaged; files of an earlier report may remain beside it", manifest)
        return
    for name in earlier:
        path = (folder / str(name)).resolve()
        if name not in files and path.is_relative_to(folder.resolve()) and path.is_file():
            path.unlink()


def _tables(content: Content) -> dict[str, pl.DataFrame]:
    tables = {} if content.analysis is None else dict(content.analysis)
    if content.flow is not None:
        flow = content.flow
        tables |= {"flow": flow.stages, "unused": flow.unused, "foreign": flow.foreign}
        tables |= {"unconverged": flow.unconverged, "bound_checks": content.bounds}
    return tables


def _findings_json(content: Content, sections: tuple[Section, ...], files: list[str]) -> bytes:
    document: dict[str, Any] = {
        "title": content.title,
        "question": content.question,
        "primary": list(content.primary),
        "log": list(content.log),
        "summary": list(summary_of(content)),
        "answers": {section.title: section.sentence for section in sections if section.sentence},
        "problem": content.problem,
        "notes": list(content.notes),
        "provenance": dict(content.provenance),
        "files": files,
        "tables": {name: _finite(frame).to_dicts() for name, frame in _tables(content).items()},
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False).encode()


def _finite(frame: pl.DataFrame) -> pl.DataFrame:
    """JSON has no infinities: they are null there, and as they are in the Parquet files."""
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    kept = [pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats]
    return frame.with_columns(kept)
