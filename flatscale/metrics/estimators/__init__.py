"""Estimates of a symmetric operator's trace, ends and spectrum, and of means of random draws."""
