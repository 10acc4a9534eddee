"""The site of these pages: `make docs` builds it strictly, so that a broken link fails."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]  # what is beside this file; this very checkout

from generated_pages import with_generated  # noqa: E402

from flatscale import __version__  # noqa: E402

project = html_title = "flatscale"
version = release = __version__
extensions = ["myst_parser"]
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
myst_heading_anchors = 4
myst_ref_domains = []
nitpicky = True


def _read(_app: Any, name: str, source: list[str]) -> None:
    source[0] = with_generated(source[0])
    if name == "index":  # the dated table of calibration has its place in the contents
        newest = max(path.stem for path in HERE.glob("calibration-*.md"))
        source[0] = source[0].replace("CALIBRATION", newest)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _read)
