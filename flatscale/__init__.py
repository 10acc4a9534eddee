"""Large-scale correlation studies of flatness, sharpness and neural representation compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flatscale.metrics import measure
    from flatscale.stats import analyze
    from flatscale.store.results import load_results

_HOMES = {
    "analyze": "flatscale.stats",
    "load_results": "flatscale.store.results",
    "measure": "flatscale.metrics",
}


def __getattr__(name: str) -> Any:
    """The public functions, imported when first used: torch only where it is needed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


__all__ = ["__version__", "analyze", "load_results", "measure"]
