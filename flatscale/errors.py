"""Errors raised on purpose: each says what was expected, what was found, where, what to do."""

from __future__ import annotations


class FlatscaleError(Exception):
    """Base of every error a user can cause and mend; printed without a traceback."""


class ConfigError(FlatscaleError):
    """The study file is wrong: names the key, what was found there and what is allowed."""


class DataError(FlatscaleError):
    """A dataset cannot be used: names the file and the row."""


class ModelError(FlatscaleError):
    """A network cannot be built or measured as asked."""


class MetricError(FlatscaleError):
    """A metric cannot be computed for this network; the text becomes its measurement's reason."""


class LostWorkerError(FlatscaleError):
    """Processes that were measuring are gone: says nothing about the network or the metric, so it
    is no metric's failure; the trial is tried again."""


class StoreError(FlatscaleError):
    """The results store cannot be read or written: names the file."""


class StatsError(FlatscaleError):
    """A table cannot be analysed: names the column or rows at fault."""


class TrackingError(FlatscaleError):
    """The tracking server cannot be used as configured."""


class MissingLibraryError(FlatscaleError, ImportError):
    """A library of an extra is not installed: names the line that installs it."""
