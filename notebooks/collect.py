"""Write results where the notebooks read them: python notebooks/collect.py STORE_OR_REPORT ...

A store's networks become results/<study>.parquet; of the report of a published table, what was
found over all of its families does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

from flatscale.store.result_table import write_result_table, write_rows
from flatscale.store.results import load_results

RESULTS = Path(__file__).resolve().parent / "results"


def main(folders: list[str]) -> int:
    """Each folder becomes one file."""
    for folder in map(Path, folders):
        if (folder / "records").is_dir():
            results = load_results(folder)
            write_result_table(results, RESULTS / f"{results.study.name}.parquet")
            continue
        made = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
        said = made["provenance"]
        found = pl.read_parquet(folder / "findings.parquet")
        headline = found.filter(~pl.col("scope").str.starts_with("family:"))
        path = RESULTS / f"{said['study']}.parquet"
        write_rows(headline, path, said["study"], said["config hash"])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
