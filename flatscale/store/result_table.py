"""A study's results as one small Parquet file that names its study: what notebooks read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from flatscale.errors import StoreError
from flatscale.store.results import Results

_KEY = "flatscale"
_KEPT = (
    "status",
    "stop",
    "reason",
    "architecture",
    "family",
    "seed_index",
    "num_steps",
    "num_parameters",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultTable:
    """One row a network (or a snapshot of one), and the study it comes from.

    Attributes:
        frame: the rows.
        study: the study's name.
        study_hash: its content hash.
        profile: the profile of its file that was run, if any.
    """

    frame: pl.DataFrame
    study: str
    study_hash: str
    profile: str | None


def write_result_table(results: Results, path: str | Path) -> None:
    """Write the networks of a study, or every snapshot where there are several, with its hash.

    Columns are the axes, what names a network, the metrics and their standard errors; of networks
    that others trained, also what was published of them.
    """
    study = results.study
    networks = results.table()
    metrics = results.measurements["metric"].unique(maintain_order=True).to_list()
    named = [c for c in networks.columns if c in _KEPT or c in ("learning_rate", "batch_size")]
    named += [c for c in networks.columns if "." in c]
    if study.only_measures:
        published = {outcome for model in study.models for outcome in model.outcomes}
        told = {"model", "options", "weights_hash", *published} - {*named, *metrics}
        named += [c for c in networks.columns if c in told]
    if study.measurement.num_snapshots > 1:
        steps = results.measurements.pivot(
            "metric", index=["trial_id", "step"], values="value", aggregate_function="first"
        )
        frame = (
            networks.select("trial_id", *named).join(steps, on="trial_id").sort("trial_id", "step")
        )
    else:
        errors = [f"{m}__std_error" for m in metrics]
        measured = [c for c in (*metrics, *errors) if networks[c].count()]
        frame = networks.select("trial_id", *named, *measured)
    write_rows(frame, path, study.name, study.content_hash, study.profile)


def write_rows(
    frame: pl.DataFrame, path: str | Path, study: str, study_hash: str, profile: str | None = None
) -> None:
    """Write rows of any study, such as the findings on a published table, with its hash."""
    known = {"study": study, "study_hash": study_hash, "profile": profile}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(path, metadata={_KEY: json.dumps(known)}, compression="zstd")


def read_result_table(path: str | Path) -> ResultTable:
    """Read what `write_result_table` wrote.

    Raises:
        StoreError: the file names no study, or cannot be read.
    """
    try:
        known = json.loads(pl.read_parquet_metadata(path)[_KEY])
        return ResultTable(frame=pl.read_parquet(path), **known)
    except (KeyError, ValueError, TypeError, OSError, pl.exceptions.PolarsError) as error:
        raise StoreError(f"{path} is no table of a study's results: {error}") from error
