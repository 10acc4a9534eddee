"""Images by name: the study's data, its probe, and plugins through `@dataset`."""

from flatscale.data.digits import digits
from flatscale.data.folder import folder
from flatscale.data.loading import Dataset, load_dataset
from flatscale.data.parquet import parquet
from flatscale.data.points import Points, Probe, load_points, select_probe
from flatscale.data.source import DATASETS, Source, Split, array_split, dataset
from flatscale.data.torchvision_sets import cifar10, cifar100, fashion_mnist, mnist

__all__ = [
    "DATASETS",
    "Dataset",
    "Points",
    "Probe",
    "Source",
    "Split",
    "array_split",
    "cifar10",
    "cifar100",
    "dataset",
    "digits",
    "fashion_mnist",
    "folder",
    "load_dataset",
    "load_points",
    "mnist",
    "parquet",
    "select_probe",
]
