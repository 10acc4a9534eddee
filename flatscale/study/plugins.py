"""Modules outside the package, imported for what they register."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from flatscale.errors import ConfigError


def import_plugins(modules: Iterable[str]) -> None:
    """Import every named module, for what its decorators register; the current folder counts.

    Raises:
        ConfigError: a module cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"plugins: cannot import {name!r} ({type(error).__name__}: {error}). It must be an "
                "importable module: installed, or in the folder the command is run from"
            ) from error
