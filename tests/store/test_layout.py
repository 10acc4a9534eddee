"""Every file name of a store stands in one place."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from flatscale.store.layout import Layout

PACKAGE = Path(__file__).resolve().parents[2] / "flatscale"
HOME = PACKAGE / "store" / "layout.py"
PATHS = [value for value in vars(Layout("store")).values() if isinstance(value, Path)]
NAMES = {path.name for path in PATHS[1:]} | {"training.safetensors", "partial"}
FILES = {name for name in NAMES if "." in name[1:]} | {".safetensors", ".journal"}
WHOLE = NAMES - FILES


def literals(tree: ast.AST) -> list[str]:
    """Every piece of text in the code but docstrings, which are not used for anything."""
    docstrings = {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and node.value
    }
    constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


def joined_to_a_path(tree: ast.AST) -> set[str]:
    """The text on the right of every `/`: the names of folders look like other words."""
    parts = [n.right for n in ast.walk(tree) if isinstance(n, ast.BinOp) and type(n.op) is ast.Div]
    return {text for part in parts for text in literals(part)}


def named(source: str) -> set[str]:
    tree = ast.parse(source)
    text = "\n".join(literals(tree))
    found = {name for name in FILES if re.search(rf"(?<!\w){re.escape(name)}(?!\.?\w)", text)}
    # What is no word of English is looked for everywhere.
    return (
        found
        | ({"store_id", "mlartifacts"} & set(literals(tree)))
        | (WHOLE & joined_to_a_path(tree))
    )


@pytest.mark.parametrize("path", sorted({*PACKAGE.rglob("*.py")} - {HOME}), ids=str)
def test_no_file_of_a_store_is_named_outside_its_layout(path: Path) -> None:
    assert named(path.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ('x = root / "records"', "records"),
        ('x = f"sqlite:///{root}/mlflow.db"', "mlflow.db"),
        ('x = folder / f"{step}.safetensors"', ".safetensors"),
        ('x = Path(root, "store_id")', "store_id"),
    ],
)
def test_such_a_name_would_be_found(line: str, name: str) -> None:
    assert name in named(line)
    assert name in " ".join(literals(ast.parse(HOME.read_text(encoding="utf-8"))))
