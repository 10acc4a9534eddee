"""Tasks with a known structure: Gaussian mixtures, teacher and student, deep linear targets."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flatscale.data.source import Source, array_split, dataset
from flatscale.errors import DataError
from flatscale.study.schema import DataConfig
from flatscale.study.seeds import derive_seed

_Count = Annotated[int, Field(ge=1)]
_Noise = Annotated[float, Field(ge=0)]
_Draw = Annotated[int, Field(ge=0)]


@dataset("gaussian_mixture")
def gaussian_mixture(
    config: DataConfig,
    *,
    num_classes: Annotated[int, Field(ge=2)] = 2,
    num_features: _Count = 20,
    separation: Annotated[float, Field(gt=0)] = 3.0,
    num_train: Annotated[int, Field(ge=2)] = 500,
    num_test: Annotated[int, Field(ge=2)] = 2000,
    draw: _Draw = 0,
) -> Source:
    """One normal cloud of variance 1 a class; any two centres are `separation` apart.

    With two classes no classifier errs less than Phi(-separation / 2). `draw` gives other points.
    """
    if num_features < num_classes:
        raise DataError(
            f"gaussian_mixture needs as many features as classes; found {num_features} features, "
            f"{num_classes} classes"
        )
    rng = _rng("gaussian_mixture", draw)
    axes = np.linalg.qr(rng.normal(size=(num_features, num_classes)))[0].T
    centres = axes * separation / np.sqrt(2)

    def points(size: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        labels = np.arange(size) % num_classes
        return centres[labels] + rng.normal(size=(size, num_features)), labels

    names = tuple(f"cloud {index}" for index in range(num_classes))
    return _source(points(num_train), points(num_test), names)


@dataset("teacher_student")
def teacher_student(
    config: DataConfig,
    *,
    num_features: _Count = 20,
    width: _Count = 5,
    num_outputs: _Count = 1,
    noise: _Noise = 0.0,
    num_train: Annotated[int, Field(ge=2)] = 200,
    num_test: Annotated[int, Field(ge=2)] = 1000,
    draw: _Draw = 0,
) -> Source:
    """y = A tanh(W x) + noise for normal x: a network of one hidden layer teaches.

    W (width, features) has normal rows of expected norm 1, A (outputs, width) likewise, so that
    outputs are of order 1; noise is its standard deviation, also in the test points.
    """
    rng = _rng("teacher_student", draw)
    hidden = rng.normal(size=(width, num_features)) / np.sqrt(num_features)
    outer = rng.normal(size=(num_outputs, width)) / np.sqrt(width)

    def points(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x = rng.normal(size=(size, num_features))
        return x, np.tanh(x @ hidden.T) @ outer.T + noise * rng.normal(size=(size, num_outputs))

    return _source(points(num_train), points(num_test), _outputs(num_outputs))


@dataset("deep_linear")
def deep_linear(
    config: DataConfig,
    *,
    num_features: _Count = 10,
    num_outputs: _Count = 5,
    singular_values: Annotated[tuple[_Noise, ...], Field(min_length=1)] = (3.0, 2.0, 1.0),
    noise: _Noise = 0.0,
    num_train: Annotated[int, Field(ge=2)] = 200,
    num_test: Annotated[int, Field(ge=2)] = 1000,
    draw: _Draw = 0,
) -> Source:
    """y = M x + noise for normal x, where M (outputs, features) has the singular values given.

    What deep linear networks learn mode by mode (Saxe et al. 2014).
    """
    if (rank := len(singular_values)) > min(num_features, num_outputs):
        raise DataError(
            f"deep_linear: a matrix {num_outputs} x {num_features} has not {rank} singular values"
        )
    rng = _rng("deep_linear", draw)
    left = np.linalg.qr(rng.normal(size=(num_outputs, rank)))[0]
    right = np.linalg.qr(rng.normal(size=(num_features, rank)))[0]
    matrix = left * np.asarray(singular_values) @ right.T

    def points(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x = rng.normal(size=(size, num_features))
        return x, x @ matrix.T + noise * rng.normal(size=(size, num_outputs))

    return _source(points(num_train), points(num_test), _outputs(num_outputs))


def _rng(name: str, draw: int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(draw, name))


def _outputs(number: int) -> tuple[str, ...]:
    return tuple(f"y{index}" for index in range(number))


def _source(
    train: tuple[NDArray[np.float64], NDArray[np.generic]],
    test: tuple[NDArray[np.float64], NDArray[np.generic]],
    names: tuple[str, ...],
) -> Source:
    return Source(
        train=array_split(*train, "the training points", None),
        test=array_split(*test, "the test points", None),
        class_names=names,
        kind="table",
        task="classification" if train[1].ndim == 1 else "regression",
    )
