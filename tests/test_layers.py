"""The one direction that imports go, and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "flatscale"

# A module may import from its own layer and from the layers before it, on its own line of descent.
GROUND = (
    "errors",
    "atomic",
    "checksums",
    "seeding",
    "measurement",
    "config",
    "study_file",
    "plan",
    "records",
    "results",
)
ALLOWED = {
    "errors": (),
    "atomic": (),
    "checksums": (),
    "seeding": (),
    "measurement": (),
    "redaction": (),
    "allocator": (),
    "config": ("errors", "redaction"),
    "study_file": ("config", "errors", "redaction"),
    "plugins": ("errors",),
    "plan": ("config", "errors", "seeding"),
    "records": ("measurement",),
    "results": ("atomic", "checksums", "config", "errors", "records", "study_file"),
    "models": (*GROUND,),
    "data": (*GROUND, "models"),
    "training": (*GROUND, "data", "models"),
    "metrics": (*GROUND, "data", "models", "training"),
    "preflight": (*GROUND, "plugins", "data", "models", "training", "metrics"),
    "cluster": (
        *GROUND,
        "allocator",
        "plugins",
        "data",
        "models",
        "training",
        "metrics",
        "preflight",
    ),
    "deliveries": ("atomic", "results"),
    "run_status": (*GROUND, "deliveries"),
    "tracking": (*GROUND, "deliveries", "redaction"),
    "stats": (*GROUND,),
    "report": (*GROUND, "stats"),
    "progress": (*GROUND,),
}
ENDS = {"cli", "pipeline", "__main__", "__init__"}
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
        ("import flatscale", set()),
        ("import flatscale.stats", set()),
        ("import flatscale.report", set()),
        ("import flatscale.cli", set()),
        ("from flatscale import analyze, load_results", set()),
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
