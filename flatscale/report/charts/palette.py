"""Colours and markers: distinguishable without colour vision, one combination per family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Okabe & Ito (2008), https://jfly.uni-koeln.de/color/, without its black and its pale yellow,
# which vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")
INK, MUTED, RULE, ACCENT = "#1a1a1a", "#6b6b6b", "#d0d0d0", "#0072B2"

_SHAPES = (
    ("circle", "o"),
    ("square", "s"),
    ("triangle-up", "^"),
    ("diamond", "D"),
    ("cross", "P"),
    ("triangle-down", "v"),
    ("triangle-right", ">"),
    ("triangle-left", "<"),
)
"""The same shape in Vega's and in matplotlib's vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one family looks, on the page and on paper."""

    colour: str
    shape: str
    marker: str


def family_styles(families: Sequence[str]) -> dict[str, Style]:
    """A colour and a marker for each family, in order; no two of the first 56 share both."""
    styles = {}
    for index, family in enumerate(dict.fromkeys(families)):
        shape, marker = _SHAPES[index % len(_SHAPES)]
        colour = COLOURS[index % len(COLOURS)]
        styles[family] = Style(colour=colour, shape=shape, marker=marker)
    return styles
