"""What the suite does to protect itself."""

from __future__ import annotations

import ast
import gc


def test_a_finalizer_that_parses_does_not_break_ast_parse() -> None:
    class Parses:
        def __del__(self) -> None:
            compile("y = 1", "<finalizer>", "exec", flags=ast.PyCF_ONLY_AST)

    thresholds = gc.get_threshold()
    gc.set_threshold(5)
    try:
        for _ in range(50):
            cycle = Parses()
            cycle.itself = cycle  # type: ignore[attr-defined]
            del cycle
            tree = ast.parse("a = [1, 2, (3, 4), {5: 6}]\n" * 20)
            assert len(tree.body) == 20
    finally:
        gc.set_threshold(*thresholds)
    assert gc.isenabled()
