"""Networks that nobody here trained: readers that list them, their weights, their size."""

from flatscale.models.zoo.entries import ZOO_READERS, ReadZoo, ZooEntry, read_zoo, zoo_reader
from flatscale.models.zoo.folders import (
    checkpoint_folder,
    hugging_face_folders,
    model_zoo_dataset,
    modelzoo_cnn,
)
from flatscale.models.zoo.sizes import NetworkSize, memory_bytes, network_size, points_at_once
from flatscale.models.zoo.timm_registry import timm_registry
from flatscale.models.zoo.weights import load_pretrained

__all__ = [
    "ZOO_READERS",
    "NetworkSize",
    "ReadZoo",
    "ZooEntry",
    "checkpoint_folder",
    "hugging_face_folders",
    "load_pretrained",
    "memory_bytes",
    "model_zoo_dataset",
    "modelzoo_cnn",
    "network_size",
    "points_at_once",
    "read_zoo",
    "timm_registry",
    "zoo_reader",
]
