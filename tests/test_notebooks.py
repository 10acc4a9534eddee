"""Notebooks run from top to bottom on committed tables, and make the table of claims."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flatscale.stats import CLAIMS_SCHEMA
from flatscale.store.result_table import read_result_table
from flatscale.study.reading import load_study

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "notebooks"
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
TABLES = sorted((HERE / "results").glob("*.parquet"))
CONFIGS = {path.stem: path for path in (ROOT / "configs").rglob("*.yaml")}
HEAVY = {"add_a_metric", "audit_a_table", "measure_any_network"}
"""Those that import torch or write a report."""
_MACHINE = re.compile(r"(/tmp/|/home/|/root/|/work/|/Users/|[A-Z]:\\\\)")

_spec = importlib.util.spec_from_file_location("notebooks_execute", HERE / "execute.py")
assert _spec is not None
assert _spec.loader is not None
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)


def content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def shown(cell: dict[str, Any]) -> list[Any]:
    """What a cell showed, but for pictures and the widths of tables."""
    return [(output["output_type"], sorted(output.get("data", {}))) for output in cell["outputs"]]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in HEAVY else [])
        for p in NOTEBOOKS
    ],
)
def test_a_notebook_runs_and_makes_its_claims(path: Path) -> None:
    committed, notebook = content(path), content(path)
    runner.pictures = False
    found = runner.execute(notebook).get("claims")
    for was, now in zip(committed["cells"], notebook["cells"], strict=True):
        if was["cell_type"] == "code":
            assert was["execution_count"] == now["execution_count"]
            assert shown(was) == shown(now) or "image/png" in str(was["outputs"])
    collected = pl.read_csv(HERE / "results" / "claims.csv", schema=CLAIMS_SCHEMA)
    of_it = collected.filter(notebook=path.stem)
    if found is None:
        assert of_it.is_empty()
    else:
        assert of_it.equals(found)


def test_no_claim_is_without_its_notebook() -> None:
    collected = pl.read_csv(HERE / "results" / "claims.csv", schema=CLAIMS_SCHEMA)
    assert set(collected["notebook"]) <= {path.stem for path in NOTEBOOKS}
    assert set(collected["verdict"]) <= {"agrees", "disagrees", "cannot tell"}
    hashes = {read_result_table(path).study_hash for path in TABLES}
    assert {one for cell in collected["study_hash"] for one in cell.split()} <= hashes


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_executed_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    cells = [cell for cell in content(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell["outputs"]:
            shown = {k: v for k, v in output.get("data", {}).items() if k != "image/png"}
            assert not _MACHINE.search(json.dumps([shown, output.get("text")]))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_is_of_its_study_file(path: Path) -> None:
    table = read_result_table(path)
    assert table.study == path.stem
    study = load_study(CONFIGS[path.stem], (), table.profile)
    assert study.content_hash == table.study_hash
    assert path.stat().st_size < 200_000
