"""Data by name: the study's points, its probe, and plugins through `@dataset`."""

from flatscale.data.arms import PIXEL_ARMS, pixel_arm
from flatscale.data.digits import digits
from flatscale.data.encoded import load_encoded, prepare
from flatscale.data.folder import folder
from flatscale.data.loading import Dataset, load_dataset
from flatscale.data.parquet import parquet
from flatscale.data.points import (
    Points,
    Probe,
    load_all_points,
    load_points,
    points_key,
    select_probe,
)
from flatscale.data.source import DATASETS, Source, Split, Task, array_split, dataset
from flatscale.data.synthetic import deep_linear, gaussian_mixture, teacher_student
from flatscale.data.tables import sklearn, table
from flatscale.data.tokens import modular_arithmetic, text
from flatscale.data.torchvision_sets import cifar10, cifar100, fashion_mnist, mnist

__all__ = [
    "DATASETS",
    "PIXEL_ARMS",
    "Dataset",
    "Points",
    "Probe",
    "Source",
    "Split",
    "Task",
    "array_split",
    "cifar10",
    "cifar100",
    "dataset",
    "deep_linear",
    "digits",
    "fashion_mnist",
    "folder",
    "gaussian_mixture",
    "load_all_points",
    "load_dataset",
    "load_encoded",
    "load_points",
    "mnist",
    "modular_arithmetic",
    "parquet",
    "pixel_arm",
    "points_key",
    "prepare",
    "select_probe",
    "sklearn",
    "table",
    "teacher_student",
    "text",
]
