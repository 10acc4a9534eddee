"""Figures, each declared once and drawn to the page and to the paper."""

from flatscale.extras import needs

needs("altair", "vl_convert")
