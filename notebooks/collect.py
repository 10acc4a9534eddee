"""Write a store's results where the notebooks read them: python notebooks/collect.py STORE ..."""

from __future__ import annotations

import sys
from pathlib import Path

from flatscale.store.result_table import write_result_table
from flatscale.store.results import load_results

RESULTS = Path(__file__).resolve().parent / "results"


def main(stores: list[str]) -> int:
    """Each store becomes results/<study>.parquet."""
    for store in stores:
        results = load_results(store)
        write_result_table(results, RESULTS / f"{results.study.name}.parquet")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
