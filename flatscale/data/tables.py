"""`table` (CSV or Parquet) and `sklearn`: rows of numbers, with a class or numbers to predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from flatscale.data.source import Source, Task, array_split, dataset, required_path
from flatscale.errors import DataError
from flatscale.extras import needs
from flatscale.study.registry import nearest
from flatscale.study.schema import DataConfig

_Share = Annotated[float, Field(gt=0, lt=1)]
_READERS: dict[str, Callable[..., pl.DataFrame]] = {
    ".csv": pl.read_csv,
    ".parquet": pl.read_parquet,
}


@dataset("table")
def table(
    config: DataConfig,
    *,
    target: str | tuple[str, ...],
    task: Task = "classification",
    test_share: _Share = 0.2,
) -> Source:
    """A CSV or Parquet file: the columns `target` are predicted from all others.

    Numbers stay numbers; text becomes a column of 0 and 1 for each of its values. Rows are split
    once and for all, evenly over the classes; features, and the targets of a regression, are scaled
    to mean 0 and variance 1 over the training rows.
    """
    path = required_path(config)
    frame = _read(path)
    targets = (target,) if isinstance(target, str) else target
    for name in targets:
        if name not in frame.columns:
            hint = nearest(name, frame.columns)
            raise DataError(f"{path} has no column {name!r}{hint}: data.options.target")
    if task == "classification" and len(targets) != 1:
        raise DataError(f"data.options.target: a class is one column; found {len(targets)}")
    for name, nulls in zip(frame.columns, frame.null_count().row(0), strict=True):
        if nulls:
            row = int(frame[name].is_null().arg_max() or 0)
            raise DataError(f"{path}, row {row}, column {name!r}: the value is missing")
    features = _numbers(frame.drop(targets), path)
    if task == "regression":
        wrong = [name for name in targets if not frame[name].dtype.is_numeric()]
        if wrong:
            raise DataError(f"{path}: target {wrong[0]!r} must be numbers; found text")
        return split_rows(
            features, frame.select(targets).to_numpy(), targets, str(path), test_share
        )
    names = frame[targets[0]].unique().sort()
    labels = frame[targets[0]].replace_strict(names, range(len(names))).to_numpy()
    return split_rows(features, labels, tuple(map(str, names)), str(path), test_share)


@dataset("sklearn")
def sklearn(
    config: DataConfig,
    *,
    name: Literal["iris", "wine", "breast_cancer", "diabetes", "linnerud"],
    test_share: _Share = 0.2,
) -> Source:
    """A table that ships with scikit-learn: three with classes, `diabetes` and `linnerud` without.

    Rows and scales as in `table`.
    """
    needs("sklearn")
    from sklearn import datasets  # it takes a second to import

    bunch = getattr(datasets, f"load_{name}")()
    is_class = bunch.target.dtype.kind == "i" and bunch.target.ndim == 1
    names = bunch.target_names if "target_names" in bunch else (name,)
    targets = bunch.target if is_class else bunch.target.reshape(len(bunch.data), -1)
    return split_rows(
        bunch.data, targets, tuple(map(str, names)), f"scikit-learn's {name}", test_share
    )


def split_rows(
    features: NDArray[np.generic],
    targets: NDArray[np.generic],
    names: tuple[str, ...],
    where: str,
    test_share: float,
) -> Source:
    """Rows as a source, split once and for all, and scaled by the training rows.

    Args:
        features: (n, features).
        targets: classes (n,), or numbers (n, outputs).
        names: of the classes or the outputs.
        where: what to call the table.
        test_share: share of the rows to test on.

    Raises:
        DataError: too few rows of a class, or a value that is not finite.
    """
    needs("sklearn")
    from sklearn.model_selection import train_test_split  # it takes a second to import

    is_class = targets.ndim == 1
    try:
        train, test = train_test_split(
            np.arange(len(targets)),
            test_size=test_share,
            random_state=0,
            stratify=targets if is_class else None,
        )
    except ValueError as error:
        raise DataError(f"{where} cannot be split: {error}") from error
    scaled = _scaled(features, train)
    wanted = targets.astype(np.int64) if is_class else _scaled(targets, train)
    return Source(
        train=array_split(scaled[train], wanted[train], f"the training rows of {where}", None),
        test=array_split(scaled[test], wanted[test], f"the test rows of {where}", None),
        class_names=names,
        kind="table",
        task="classification" if is_class else "regression",
    )


def _scaled(values: NDArray[np.generic], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """Columns with mean 0 and variance 1 over the training rows; constant ones become 0."""
    numbers = values.astype(np.float64)
    mean, deviation = numbers[train].mean(axis=0), numbers[train].std(axis=0)
    return ((numbers - mean) / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def _read(path: Path) -> pl.DataFrame:
    if path.suffix not in _READERS:
        raise DataError(f"data.path {path} must end with {' or '.join(_READERS)}")
    try:
        frame = _READERS[path.suffix](path)
    except Exception as error:  # a reader of another library may raise anything
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    if frame.height == 0:
        raise DataError(f"{path} has no rows")
    return frame


def _numbers(frame: pl.DataFrame, path: Path) -> NDArray[np.float64]:
    """Every column as numbers, text as one column a value."""
    text = [name for name, dtype in frame.schema.items() if dtype in (pl.String, pl.Categorical)]
    frame = frame.to_dummies(text) if text else frame
    for name, dtype in frame.schema.items():
        if not (dtype.is_numeric() or dtype == pl.Boolean):
            raise DataError(f"{path}, column {name!r}: expected numbers or text, found {dtype}")
    if not frame.width:
        raise DataError(f"{path} has no column beside the target")
    return frame.cast(pl.Float64).to_numpy()
