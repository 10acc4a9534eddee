"""Images by name: the study's data, its probe, and plugins through `@dataset`."""

from flatscale.data.digits import digits
from flatscale.data.folder import folder
from flatscale.data.loading import Dataset, load_dataset
from flatscale.data.parquet import parquet
from flatscale.data.probe_set import Probe, select_probe
from flatscale.data.source import (
    Source,
    Split,
    array_split,
    check_dataset,
    dataset,
    known_datasets,
)
from flatscale.data.torchvision_sets import cifar10, cifar100, fashion_mnist, mnist

__all__ = [
    "Dataset",
    "Probe",
    "Source",
    "Split",
    "array_split",
    "check_dataset",
    "cifar10",
    "cifar100",
    "dataset",
    "digits",
    "fashion_mnist",
    "folder",
    "known_datasets",
    "load_dataset",
    "mnist",
    "parquet",
    "select_probe",
]
