"""Estimates: arrays in, an `Estimate` or a named record out."""

from flatscale.extras import needs

needs("sklearn", "statsmodels")
