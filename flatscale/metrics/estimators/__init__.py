"""Estimators on operators and matrices, tested without a network."""
