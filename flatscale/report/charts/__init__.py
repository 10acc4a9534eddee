"""Figures, each declared once and drawn to the page and to the paper."""
