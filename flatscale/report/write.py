"""Writing a report: everything is made in memory first, then each file whole or not at all."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flatscale.atomic import write_atomically
from flatscale.errors import StoreError
from flatscale.report.content import Content
from flatscale.report.from_store import content_of_store
from flatscale.report.page import render_page
from flatscale.report.sections import sections_of
from flatscale.results import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """Where a report was written.

    Attributes:
        folder: the folder of all of it.
        page: report.html.
        findings: findings.json, every number of every table.
        files: every file written, the ones above included.
    """

    folder: Path
    page: Path
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


def write_report(content: Content, folder: Path) -> ReportPaths:
    """Render every part of a report and write it into a folder."""
    files = render_files(content)
    try:
        for name, body in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, body)
    except OSError as error:
        raise StoreError(f"cannot write the report to {folder}: {error}") from error
    logger.info("report written to %s", folder)
    return ReportPaths(
        folder=folder,
        page=folder / "report.html",
        findings=folder / "findings.json",
        files=tuple(folder / name for name in files),
    )


def render_files(content: Content) -> dict[str, bytes]:
    """Every file of the report by its path in the folder; the page last."""
    sections = sections_of(content)
    files = {"findings.json": _findings_json(content)}
    for name, frame in _tables(content).items():
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        files[name if name == "findings.parquet" else f"data/{name}"] = buffer.getvalue()
    files["report.html"] = render_page(content, sections).encode()
    return files


def _tables(content: Content) -> Mapping[str, pl.DataFrame]:
    tables = {} if content.analysis is None else content.analysis.tables()
    if content.flow is not None:
        tables |= {"flow": content.flow.stages, "unused": content.flow.unused}
        tables |= {"foreign": content.flow.foreign, "unconverged": content.flow.unconverged}
    return {f"{name}.parquet": frame for name, frame in tables.items()}


def _findings_json(content: Content) -> bytes:
    tables: dict[str, Any] = {
        name.removesuffix(".parquet"): frame.to_dicts() for name, frame in _tables(content).items()
    }
    document = {
        "title": content.title,
        "question": content.question,
        "primary": list(content.primary),
        "log": list(content.log),
        "problem": content.problem,
        "notes": list(content.notes),
        "provenance": dict(content.provenance),
        "tables": tables,
    }
    return json.dumps(document, indent=1, allow_nan=False).encode()
