"""What each extra brings: declared once, asked for where it is used, named where it is missing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from flatscale.errors import FlatscaleError, MissingLibraryError
from flatscale.extras import EXTRA_OF, needs

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flatscale"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def distributions(requirements: list[str]) -> set[str]:
    names = (re.match(r"[A-Za-z0-9_.-]+", one) for one in requirements)
    return {found[0].lower().replace("-", "_") for found in names if found} - {"flatscale"}


def required(tree: ast.AST) -> set[str]:
    """The libraries that a module asks for."""
    return {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "needs"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }


def libraries(tree: ast.AST) -> set[str]:
    """The libraries that a module imports, those imported for the type checker alone aside."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
        else:
            found |= libraries(node)
    return found


def test_every_library_of_an_extra_is_asked_for_where_it_is_imported() -> None:
    core = distributions(PROJECT["dependencies"]) | {"pydantic_core"}  # which pydantic pins
    provided = packages_distributions()
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        asked = required(tree)
        for folder in path.parents:
            if folder.is_relative_to(PACKAGE):
                asked |= required(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
        for library in libraries(tree) - set(sys.stdlib_module_names) - {"flatscale"}:
            if library in EXTRA_OF:
                assert library in asked, f"{path} imports {library} without needs({library!r})"
            else:
                known = {name.lower().replace("-", "_") for name in provided[library]}
                assert known & core, f"{path}: {library} is in no dependency and in no extra"


def test_the_extras_are_those_of_the_project() -> None:
    extras, provided = PROJECT["optional-dependencies"], packages_distributions()
    for extra in ("report", "run", "zoo"):
        listed = {name for name, known in EXTRA_OF.items() if known == extra}
        named = distributions(extras[extra])
        for name in listed:  # one library may come from several distributions
            assert named & {one.lower().replace("-", "_") for one in provided[name]}, name
        assert len(named) == len(listed)
    assert set(extras) == {"report", "run", "zoo", "all", "dev"}


def test_a_missing_library_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs("pyarrow", "timm")
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingLibraryError, match=r"^timm is needed .* 'flatscale\[zoo\]'$") as one:
        needs("pyarrow", "timm")
    assert isinstance(one.value, FlatscaleError)
    assert isinstance(one.value, ImportError)
    with pytest.raises(MissingLibraryError, match=r"^ray and timm are .* 'flatscale\[run,zoo\]'$"):
        needs("ray", "timm")


WITHOUT_EXTRAS = """
import json, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))

import torch
import flatscale
from flatscale.errors import MissingLibraryError

x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
report = flatscale.measure(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), (x, y))
assert all(measured.value is not None for measured in report.values()), report
report.to_polars(), report._repr_html_()

from flatscale.data import load_dataset
from flatscale.models import build_model
from flatscale.study.schema import DataConfig, OptimizerConfig
from flatscale.training.optimizers import build_optimizer

def module(name):
    return lambda: __import__(name)

doors = {
    "pandas": report.to_pandas,
    "analyze": lambda: flatscale.analyze,
    "report": module("flatscale.report"),
    "pipeline": module("flatscale.pipeline"),
    "tracking": module("flatscale.tracking.writer"),
    "digits": lambda: load_dataset(DataConfig(), seed=0),
    "parquet": lambda: load_dataset(DataConfig(source="parquet", path="."), seed=0),
    "timm": lambda: build_model("timm:resnet18", (3, 32, 32), 3, {}, seed=0),
    "lamb": lambda: build_optimizer(torch.nn.Linear(1, 1), OptimizerConfig(name="timm:lamb"), 0.1),
    "torchvision": lambda: load_dataset(DataConfig(source="mnist", path="."), seed=0),
}
said = {}
for name, door in doors.items():
    try:
        door()
    except MissingLibraryError as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def test_the_library_works_without_any_extra_and_names_each_that_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, json.dumps(sorted(EXTRA_OF))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = {
        "pandas": "report",
        "analyze": "report",
        "report": "report",
        "pipeline": "run",
        "tracking": "run",
        "digits": "report",
        "parquet": "report",
        "timm": "zoo",
        "lamb": "zoo",
        "torchvision": "zoo",
    }
    said = json.loads(done.stdout.splitlines()[-1])
    assert {name: re.search(r"'flatscale\[(.*)\]'", text)[1] for name, text in said.items()} == (
        expected
    )
