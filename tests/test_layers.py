"""The one direction that imports go, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "flatscale"

# The rooms in the order that imports go; a room may import from itself and from those named.
STUDY = ("errors", "extras", "progress_bar", "study")
STORE = (*STUDY, "measurement", "store")
ALLOWED = {
    "errors": (),
    "extras": ("errors",),
    "measurement": (),
    "progress_bar": (),
    "study": ("errors", "extras"),
    "store": (*STUDY, "measurement"),
    "data": (*STORE, "models"),
    "models": STORE,
    "training": (*STORE, "data", "models"),
    "metrics": (*STORE, "data", "models", "training"),
    "preflight": (*STORE, "data", "models", "training", "metrics"),
    "cluster": (*STORE, "data", "models", "training", "metrics", "preflight"),
    "tracking": STORE,
    "stats": STORE,
    "report": (*STORE, "stats"),
}
ENDS = {"cli", "pipeline", "__main__", "__init__"}  # the ends of the line may import everything
LIGHT = (
    "import flatscale.stats, flatscale.report, flatscale.cli.commands; "
    "from flatscale import analyze, load_results"
)
HEAVY = {"torch", "ray", "ray.tune", "mlflow", "timm", "torchvision"}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            if node.module == "flatscale":
                names |= {f"flatscale.{alias.name}" for alias in node.names}
    return names


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    if here in ENDS:
        return
    assert here in ALLOWED, f"{here} has no place in the import order"
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "flatscale" and len(parts) > 1 and not parts[1].startswith("__"):
            assert parts[1] in (here, *ALLOWED[here]), f"{here} must not import {name}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [("ray", {"cluster"}), ("mlflow", {"tracking"})],
)
def test_one_room_knows_each_service(library: str, rooms: set[str]) -> None:
    users = {room(p) for p in MODULES if any(n.split(".")[0] == library for n in imported(p))}
    assert users == rooms


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        (LIGHT, set()),
        ("import flatscale.cluster.mailbox", {"ray"}),
        ("import flatscale.cluster.probe_pool", {"ray", "torch"}),
    ],
)
def test_light_imports_stay_light(statement: str, allowed: set[str]) -> None:
    code = f"import sys; {statement}; print(*({HEAVY!r} & set(sys.modules)), sep=',')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.strip().split(",") if name} <= allowed


def test_modules_stay_small() -> None:
    lengths = {p.relative_to(PACKAGE): len(p.read_text().splitlines()) for p in MODULES}
    assert {p: n for p, n in lengths.items() if n > 400} == {}


def test_no_two_modules_have_one_name_or_are_anagrams() -> None:
    named: dict[str, list[str]] = {}
    for path in MODULES:
        if not path.stem.startswith("__"):
            letters = "".join(sorted(path.stem.replace("_", "")))
            named.setdefault(letters, []).append(str(path.relative_to(PACKAGE)))
    assert [same for same in named.values() if len(same) > 1] == []


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("metrics.estimators", ("metrics.probe", "metrics.passes", "metrics.catalog")),
        ("metrics.probe", ("metrics.passes", "metrics.catalog")),
        ("metrics.passes", ("metrics.catalog",)),
        ("stats.estimators", ("stats.tables",)),
        ("report.content", ("report.render",)),
        ("report.words", ("report.render",)),
        ("report.charts", ("report.render",)),
    ],
)
def test_parts_of_a_room_have_an_order_too(inner: str, outer: tuple[str, ...]) -> None:
    for path in (PACKAGE / inner.replace(".", "/")).rglob("*.py"):
        for name in imported(path):
            for part in outer:
                assert not f"{name}.".startswith(f"flatscale.{part}."), f"{path.name}: {name}"
