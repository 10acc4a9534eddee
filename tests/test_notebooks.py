"""Notebooks run from top to bottom on committed tables, and make the table of claims."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Iterator
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
# Two names or more from the root, a drive, a file's URL; not a part of a URL, of a relative path or
# of a formula, nor a closing tag.
_MACHINE = re.compile(
    r"(?<![\w./:<)\]}~-])/[A-Za-z_.][\w.-]*/[\w.-]+|\b[A-Za-z]:(?:\\+|/(?!/))\w|\bfile://"
)

_spec = importlib.util.spec_from_file_location("notebooks_execute", HERE / "execute.py")
assert _spec is not None
assert _spec.loader is not None
runner = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(runner)


def content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def words(part: Any) -> Iterator[str]:
    """Every text of an output but its pictures."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, list):
        yield from itertools.chain.from_iterable(map(words, part))
    elif isinstance(part, dict):
        yield from words([v for k, v in part.items() if not k.startswith("image/")])


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


def test_the_page_and_the_readme_show_the_claims_collected() -> None:
    collected = pl.read_csv(HERE / "results" / "claims.csv", schema=CLAIMS_SCHEMA)
    assert (ROOT / "docs" / "claims.md").read_text(encoding="utf-8") == runner.page(collected)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == runner.with_claims(readme, collected)
    assert runner.counts(collected) in readme
    shown = readme.partition("<!-- claims -->")[2].partition("<!-- end of claims -->")[0]
    assert shown.count("\n|") == 2 + len(runner.MAIN)
    with pytest.raises(ValueError, match="no notebook makes"):
        runner.with_claims(readme, collected.head(1))


def test_what_was_chosen_after_results_is_marked() -> None:
    collected = pl.read_csv(HERE / "results" / "claims.csv", schema=CLAIMS_SCHEMA)
    marked = collected.filter("exploratory")
    assert set(marked["notebook"]) == {"random_labels", "sudden_generalization"}
    for text in (runner.page(marked), runner.page(collected)):
        assert text.count(", exploratory |") == marked.height


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_executed_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    cells = [cell for cell in content(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [text for text in words(cell["outputs"]) if _MACHINE.search(text)]


@pytest.mark.parametrize(
    "text",
    [
        "/home/x/study.yaml",
        "/Users/x",
        "read from /tmp/table.csv",
        "/root/.cache/torch",
        "store=/data/runs/first",
        'File "/opt/python/lib/a.py", line 3',
        "first\n/srv/x/y",
        "<td>/mnt/disk/table.csv</td>",
        "PosixPath('/scratch/me')",
        "C:\\Users\\x",
        "WindowsPath('D:/data/x')",
        "file:///etc/x",
    ],
)
def test_a_path_of_a_machine_is_seen_in_an_output(text: str) -> None:
    assert _MACHINE.search(text)
    for output in ({"text": ["a line\n", text]}, {"data": {"text/html": f"<p>{text}</p>"}}):
        assert any(map(_MACHINE.search, words([output])))
    assert not list(words([{"data": {"image/png": text}}]))


@pytest.mark.parametrize(
    "text",
    [
        "https://arxiv.org/abs/2310.01770",
        "runs/first/report/report.html",
        "../shared/data/cifar10",
        "<td>1</td><br/></tr>",
        "train/test/gap, 1/2/3, σ/√n/2, f(x)/g/h",
        "x: 3, ratio 10:30",
    ],
)
def test_what_is_no_path_of_a_machine_is_let_be(text: str) -> None:
    assert not _MACHINE.search(text)


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_table_is_of_its_study_file(path: Path) -> None:
    table = read_result_table(path)
    assert table.study == path.stem
    study = load_study(CONFIGS[path.stem], (), table.profile)
    if getattr(study, "zoo", None) is None:
        assert study.content_hash == table.study_hash
    else:  # a zoo's hash holds those of the weights it found, which are not here
        assert set(study.measurement.metrics) <= set(table.frame.columns)
        assert table.frame["weights_hash"].n_unique() == table.frame.height
    assert path.stat().st_size < 200_000
