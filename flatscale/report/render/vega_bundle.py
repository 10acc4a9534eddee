"""Vega, Vega-Lite and vega-embed as one script, bundled once a machine and kept."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from importlib import metadata
from pathlib import Path

import vl_convert

from flatscale.report.charts.draw import VEGA_LITE
from flatscale.store.atomic import write_atomically

logger = logging.getLogger(__name__)

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@functools.cache
def vega_bundle() -> str:
    """The script that draws every chart of the page, safe inside a <script> element.

    Bundling takes over a second, so the result is kept in the user's cache folder under the
    version of vl-convert. A kept file begins with the SHA-256 of the rest and is made anew if that
    is wrong; where no cache can be written, the script is bundled each time.
    """
    kept = _kept_at()
    script = None if kept is None else _read(kept)
    if script is None:
        bundle = vl_convert.javascript_bundle(_SNIPPET, vl_version=VEGA_LITE)
        # The bundle is a module; its top-level names must not reach the page's.
        script = "(() => {" + bundle.replace("</script", "<\\/script") + "})();"
        if kept is not None:
            _keep(kept, script)
    return script


def _kept_at() -> Path | None:
    folder = os.environ.get("XDG_CACHE_HOME")
    try:
        cache = Path(folder) if folder else Path.home() / ".cache"
    except RuntimeError:  # no home directory
        return None
    version = metadata.version("vl-convert-python")
    return cache.absolute() / "flatscale" / f"vega-{VEGA_LITE}-vl-convert-{version}.js"


def _read(path: Path) -> str | None:
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return body.decode() if hashlib.sha256(body).hexdigest().encode() == digest else None


def _keep(path: Path, script: str) -> None:
    body = script.encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    except OSError as error:
        logger.debug("the Vega bundle is not kept in %s: %s", path.parent, error)
