"""A bar on standard error while the library computes; quiet where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Watch = Callable[[str, int], None]
"""Called with the name of what begins, and the number of steps done before it."""


@contextmanager
def progress_bar(wanted: bool | None, num_steps: int) -> Iterator[Watch]:
    """A bar of the steps done, with the one that runs and the time that has passed.

    Args:
        wanted: whether it is shown; None where standard error is a terminal, and in a notebook.
        num_steps: how many there are.
    """
    console = Console(stderr=True)
    # Without ipywidgets a notebook would get a warning in place of a bar.
    in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
    shown = sys.stderr.isatty() or in_notebook if wanted is None else wanted
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=not shown
    ) as bar:
        task = bar.add_task("", total=num_steps)
        yield lambda name, done: bar.update(task, description=name, completed=done)
