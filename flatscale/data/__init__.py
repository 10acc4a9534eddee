"""Images by name: the study's data, its probe, and plugins through `@dataset`."""

from flatscale.data.digits import digits
from flatscale.data.loading import Dataset, load_dataset
from flatscale.data.probe import Probe, select_probe
from flatscale.data.source import (
    Source,
    Split,
    array_split,
    check_dataset,
    dataset,
    known_datasets,
)

__all__ = [
    "Dataset",
    "Probe",
    "Source",
    "Split",
    "array_split",
    "check_dataset",
    "dataset",
    "digits",
    "known_datasets",
    "load_dataset",
    "select_probe",
]
