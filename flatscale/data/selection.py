"""Which rows are kept: classes by name or index, then balanced subsets from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flatscale.errors import DataError
from flatscale.study.registry import nearest


def select_classes(
    class_names: tuple[str, ...], wanted: Sequence[int | str] | None
) -> tuple[int, ...]:
    """Indices of the wanted classes in their order; all of them for None.

    Raises:
        DataError: an unknown name (with the nearest), an index out of range, or a class twice.
    """
    if wanted is None:
        return tuple(range(len(class_names)))
    chosen = [_class_index(class_names, item) for item in wanted]
    for position, index in enumerate(chosen):
        if index in chosen[:position]:
            raise DataError(f"data.classes lists class {class_names[index]!r} twice")
    return tuple(chosen)


def _class_index(class_names: tuple[str, ...], item: int | str) -> int:
    if isinstance(item, str):
        if item not in class_names:
            raise DataError(
                f"data.classes: unknown class {item!r}{nearest(item, class_names)}; "
                f"known: {_listed(class_names)}"
            )
        return class_names.index(item)
    if not 0 <= item < len(class_names):
        raise DataError(
            f"data.classes: class index must be in 0..{len(class_names) - 1}, found {item}; "
            f"known: {_listed(class_names)}"
        )
    return item


def balanced_rows(
    labels: NDArray[np.int64],
    num_classes: int,
    size: int | None,
    *,
    seed: int,
    where: str,
    key: str = "",
) -> NDArray[np.int64]:
    """Rows of a subset drawn as evenly over the classes as their sizes allow, ascending.

    The subset of a larger size contains that of a smaller one with the same seed, where the classes
    are equally large.

    Args:
        labels: class index of each row, in 0..num_classes-1.
        num_classes: number of classes.
        size: how many rows; None keeps all.
        seed: seed of the draw.
        where: names the images in an error.
        key: names the key of the study file that asks for them.

    Raises:
        DataError: more rows asked for than there are.
    """
    if size is None:
        return np.arange(len(labels), dtype=np.int64)
    if size > len(labels):
        asked = f"{key}: " if key else ""
        raise DataError(f"{asked}{size} images were asked for, but {where} are only {len(labels)}")
    shares = _even_shares(np.bincount(labels, minlength=num_classes), size)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    chosen = [order[labels[order] == index][:share] for index, share in enumerate(shares)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _even_shares(available: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many to take of each class: levels filled from below, the rest to the first classes."""
    shares = np.zeros_like(available)
    while (missing := size - int(shares.sum())) > 0:
        open_classes = np.flatnonzero(shares < available)
        step = missing // len(open_classes)
        if step == 0:
            shares[open_classes[:missing]] += 1
        else:
            room = available[open_classes] - shares[open_classes]
            shares[open_classes] += np.minimum(step, room)
    return shares


def _listed(class_names: tuple[str, ...], limit: int = 20) -> str:
    more = f", … ({len(class_names)} in all)" if len(class_names) > limit else ""
    return ", ".join(class_names[:limit]) + more
