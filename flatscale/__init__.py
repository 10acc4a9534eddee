"""Large-scale correlation studies of flatness, sharpness and neural representation compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from flatscale.metrics import measure
    from flatscale.stats import analyze
    from flatscale.store.results import load_results
    from flatscale.training.kept_networks import load_network

_HOMES = {
    "analyze": "flatscale.stats",
    "load_network": "flatscale.training.kept_networks",
    "load_results": "flatscale.store.results",
    "measure": "flatscale.metrics",
}


def __getattr__(name: str) -> Any:
    """The public functions, imported when first used: torch only where it is needed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


__all__ = ["__version__", "analyze", "load_network", "load_results", "measure"]
