"""A small Ray on this machine, and studies that take seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flatscale.cluster.local_ray import local_ray
from flatscale.study.reading import parse_config
from flatscale.study.schema import StudyConfig

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"source": "digits", "train_size": 60, "test_size": 40, "classes": [0, 1, 2]},
    "models": [{"architecture": "mlp", "options": {"width": 16}}],
    "design": {"kind": "grid", "learning_rate": [0.1, 0.3], "batch_size": [20], "num_seeds": 2},
    "training": {"stop_loss": 0.05, "max_steps": 400},
    "measurement": {
        "probe_size": 21,
        "metrics": ["mls", "sharpness", "test_accuracy", "train_loss"],
    },
    "analysis": {
        "primary": ["learning_rate", "mls"],
        "outcomes": ["test_accuracy"],
        "num_resamples": 100,
    },
}


@pytest.fixture(scope="session")
def small_ray() -> Iterator[None]:
    """Two CPUs, shared by the tests of this folder that run in this process."""
    with local_ray(num_cpus=2):
        yield


@pytest.fixture
def small_study() -> Callable[..., StudyConfig]:
    """The small study with some of its parts replaced."""

    def make(**parts: Any) -> StudyConfig:
        return parse_config({**SMALL, **parts})

    return make


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """The small study as a file, with some of its parts replaced."""

    def make(**parts: Any) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **parts}))
        return path

    return make
