"""Columns that cannot matter, to go through every table beside the metrics."""

from __future__ import annotations

import numpy as np

from flatscale.stats.estimators.replication import recode
from flatscale.stats.sample import Floats, Ints

RANDOM, TRIAL_NUMBER = "control: random", "control: trial number"


def negative_controls(
    columns: dict[str, Floats],
    *,
    family: Ints | None = None,
    configuration: Ints | None = None,
    seed: int = 0,
) -> dict[str, Floats]:
    """A random column, the number of the row, and a shuffled copy of each column.

    The random column keeps the levels of the study: a part of each family, of each configuration
    and of each row, of equal variance. A copy is shuffled inside families, whole configurations
    changing place with others of as many rows, so that it keeps the column's differences between
    families and between seeds and loses every other relation. What "wins" with these columns wins
    by chance or by its family.

    Args:
        columns: name -> n values.
        family, configuration: n codes, or None where the study has none.
        seed: of the draws.

    Returns:
        name -> n values, in the rows' order.
    """
    n = len(next(iter(columns.values())))
    rng = np.random.default_rng(seed)
    strata = np.zeros(n, dtype=np.int64) if family is None else recode(family)
    own = np.arange(n, dtype=np.int64) if configuration is None else configuration
    cells = recode(np.stack([strata, own], axis=1))
    noise = rng.standard_normal(n) + rng.standard_normal(n)[cells]
    if family is not None:
        noise = noise + rng.standard_normal(n)[strata]
    made = {RANDOM: noise, TRIAL_NUMBER: np.arange(n, dtype=np.float64)}
    for name, values in columns.items():
        made[f"control: shuffled {name}"] = values[shuffled_inside(strata, cells, rng)]
    return made


def shuffled_inside(strata: Ints, cells: Ints, rng: np.random.Generator) -> Ints:
    """An order of n rows: cells of one stratum and one size change places, their rows together."""
    order = np.argsort(cells, kind="stable")
    size = np.bincount(cells)
    start = np.cumsum(size) - size
    of_cell = np.zeros(len(size), dtype=np.int64)
    of_cell[cells] = strata
    result = np.arange(len(cells), dtype=np.int64)
    for kind in np.unique(np.stack([of_cell, size], axis=1), axis=0):
        alike = np.flatnonzero((of_cell == kind[0]) & (size == kind[1]))
        rows = np.arange(kind[1])
        source = rng.permutation(alike)
        result[order[start[alike][:, None] + rows]] = order[start[source][:, None] + rows]
    return result
