"""Importing this module registers every row and column of the calibration."""

from tests.calibration import correlation_columns, correlation_rows, scan_rows  # noqa: F401
