"""Libraries that only a part of flatscale needs, and the extra that installs each: said once.

What imports one of them asks for it first, by `needs`: inside the function that imports it, or in
the `__init__` of a package whose modules do.
"""

from __future__ import annotations

from importlib.util import find_spec

from flatscale.errors import MissingLibraryError

EXTRA_OF = {
    "altair": "report",
    "grpc": "run",
    "huggingface_hub": "zoo",
    "jinja2": "report",
    "markupsafe": "report",
    "mlflow": "run",
    "pandas": "report",
    "psutil": "run",
    "pyarrow": "report",
    "ray": "run",
    "sklearn": "report",
    "statsmodels": "report",
    "timm": "zoo",
    "torchvision": "zoo",
    "vl_convert": "report",
}
"""By the name that is imported; `[run]` and `[zoo]` bring all of `[report]`."""


def needs(*modules: str) -> None:
    """Make sure that libraries can be imported, without importing them.

    Args:
        modules: names in `EXTRA_OF`.

    Raises:
        MissingLibraryError: names what is not installed, and the line that installs it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        extras = ",".join(sorted({EXTRA_OF[name] for name in missing}))
        raise MissingLibraryError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} needed for this and "
            f"not installed; install with: pip install 'flatscale[{extras}]'"
        )
