"""Which networks of a zoo can be measured: a table of names, families, reasons, seconds, memory.

    python jobs/zoo_dry_run.py TABLE [CONFIG] [--set KEY=VALUE] [--store DIR] [--most N]

Runs the study CONFIG (configs/zoo_dry_run.yaml), which goes on where an earlier run was stopped,
and writes TABLE (CSV). With --most, only the first N networks of every family. Exits with 1 where
more than 2% of the networks failed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

MOST_FAILED = 0.02


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("config", type=Path, nargs="?", default=Path("configs/zoo_dry_run.yaml"))
    parser.add_argument("--store", type=Path)
    parser.add_argument("--most", type=int)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()

    import polars as pl

    from flatscale.models.zoo import read_zoo
    from flatscale.pipeline import run_study
    from flatscale.preflight import check_study
    from flatscale.store.results import Store
    from flatscale.study.reading import load_config

    study = read_zoo(load_config(arguments.config, tuple(arguments.overrides))).study
    if arguments.most is not None:
        seen: Counter[str | None] = Counter()
        kept = []
        for model in study.models:
            seen[model.family] += 1
            kept += [model] * (seen[model.family] <= arguments.most)
        study = study.model_copy(update={"models": tuple(kept)})
    store = Store(arguments.store or Path("runs") / study.name)
    specs = check_study(study)
    run_study(study, specs, store)
    results = store.read([spec.trial_id for spec in specs])
    lacking = results.measurements.filter(pl.col("value").is_null()).select(
        "trial_id", pl.format("{}: {}", "metric", "reason").alias("why")
    )
    why = lacking.group_by("trial_id").agg(pl.col("why").str.join("; "))
    rows = results.trials.join(why, on="trial_id", how="left").select(
        pl.col("model").alias("name"),
        "family",
        pl.when(pl.col("why").is_null()).then("status").otherwise(pl.lit("failed")).alias("status"),
        pl.coalesce("reason", "why").alias("reason"),
        pl.col("measure_seconds").round(1).alias("seconds"),
        (pl.col("peak_memory_bytes") / 2**20).round().alias("peak_memory_mib"),
    )
    arguments.table.parent.mkdir(parents=True, exist_ok=True)
    rows.sort("family", "name").write_csv(arguments.table)
    failed = rows.filter(pl.col("status") != "finished").height
    print(f"{rows.height} networks, {failed} failed: {arguments.table}")
    return 1 if failed > MOST_FAILED * rows.height else 0


if __name__ == "__main__":
    sys.exit(main())
