"""Estimates: arrays in, an `Estimate` or a named record out."""
