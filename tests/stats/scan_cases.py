"""Simulated tables for the family scan: what it must leave alone, and what it must find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

SLOPE = 0.6
OWN_X = 0.7
EFFECT = 0.7
RESIDUAL_SD = float(np.sqrt(1 + EFFECT**2))
X_SD = float(np.sqrt(1 + OWN_X**2))
PLANTED = "f0"


@dataclass(kw_only=True)
class Draw:
    """One table before anything is planted: y = 0.6 x + family effect + noise."""

    family: np.ndarray
    x: np.ndarray
    effect: np.ndarray
    noise: np.ndarray

    @property
    def y(self) -> np.ndarray:
        return SLOPE * self.x + self.effect[self.family] + self.noise

    def planted(self) -> np.ndarray:
        return np.flatnonzero(self.family == 0)


def draw(rng: np.random.Generator, *, first_size: int | None = None) -> Draw:
    """12-25 families of 3-40 rows, log-uniform; the planted family holds `first_size` rows."""
    count = int(rng.integers(12, 26))
    sizes = np.exp(rng.uniform(np.log(3), np.log(41), size=count)).astype(int)
    if first_size is not None:
        sizes[0] = first_size
    family = np.repeat(np.arange(count), sizes)
    x = rng.standard_normal(count)[family] + OWN_X * rng.standard_normal(len(family))
    effect = EFFECT * rng.standard_normal(count)
    return Draw(family=family, x=x, effect=effect, noise=rng.standard_normal(len(family)))


def table(x: np.ndarray, y: np.ndarray, family: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"x": x, "y": y, "family": [f"f{code}" for code in family]})


def _table(d: Draw, y: np.ndarray | None = None, x: np.ndarray | None = None) -> pl.DataFrame:
    return table(d.x if x is None else x, d.y if y is None else y, d.family)


def plain(rng: np.random.Generator) -> pl.DataFrame:
    return _table(draw(rng))


def noise_grows(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    d.noise *= np.exp(0.4 * d.x)
    return _table(d)


def slopes_differ(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    return _table(d, d.y + 0.3 * rng.standard_normal(len(d.effect))[d.family] * d.x)


def heavy_noise(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    d.noise = rng.standard_t(4, size=len(d.x))
    return _table(d)


def curved(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    return _table(d, d.y + 0.15 * d.x**2)


def saturating(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    return _table(d, 3 * (1 - np.exp(-0.6 * (d.x + 2))) + d.effect[d.family] + d.noise)


def discrete(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    return _table(d, np.round(d.y * 2) / 2, np.round(d.x * 2) / 2)


def measurement_error(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    return _table(d, x=d.x + 0.5 * rng.standard_normal(len(d.x)))


def unequal_noise(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    d.noise *= np.exp(0.5 * rng.standard_normal(len(d.effect)))[d.family]
    return _table(d)


def near_copies(rng: np.random.Generator, jitter: float = 0.05) -> pl.DataFrame:
    """Half of the families are copies of a third of their rows, moved by `jitter` residual SDs."""
    d = draw(rng)
    x, y = d.x.copy(), d.y
    for code in np.flatnonzero(rng.random(len(d.effect)) < 0.5):
        where = np.flatnonzero(d.family == code)
        originals = rng.choice(where, size=max(2, len(where) // 3), replace=False)
        source = rng.choice(originals, size=len(where))
        x[where], y[where] = d.x[source], d.y[source]
    x += jitter * rng.standard_normal(len(x))
    return table(x, y + jitter * rng.standard_normal(len(x)), d.family)


def looser_copies(rng: np.random.Generator) -> pl.DataFrame:
    return near_copies(rng, 0.15)


def log_normal(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    return _table(d, np.exp(d.y), np.exp(d.x))


def heavy_effects(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    d.effect = EFFECT * rng.standard_t(4, size=len(d.effect)) / np.sqrt(2)
    return _table(d)


def skewed_x(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng)
    return _table(d, x=np.exp(d.x), y=SLOPE * np.exp(d.x) + d.effect[d.family] + d.noise)


def grid(rng: np.random.Generator) -> pl.DataFrame:
    """12-25 families over the same 4 values of x, 5 rows at each."""
    count = int(rng.integers(12, 26))
    family, x = np.repeat(np.arange(count), 20), np.tile(np.repeat(np.arange(4.0), 5), count)
    effect = EFFECT * rng.standard_normal(count)
    return table(x, SLOPE * x + effect[family] + rng.standard_normal(len(x)), family)


def _shifted(
    rng: np.random.Generator, rows: Callable[[int], int], size: float = 4.0, in_x: bool = False
) -> pl.DataFrame:
    d = draw(rng, first_size=int(rng.integers(8, 31)))
    x, y, where = d.x.copy(), d.y, d.planted()
    moved = rng.choice(where, size=rows(len(where)), replace=False)
    sign = rng.choice([-1, 1])
    if in_x:
        x[moved] += sign * size * X_SD
    else:
        y[moved] += sign * size * RESIDUAL_SD
    return table(x, y, d.family)


def whole_in_y(rng: np.random.Generator) -> pl.DataFrame:
    return _shifted(rng, lambda n: n)


def whole_in_x(rng: np.random.Generator) -> pl.DataFrame:
    return _shifted(rng, lambda n: n, in_x=True)


def half_in_y(rng: np.random.Generator) -> pl.DataFrame:
    return _shifted(rng, lambda n: n // 2)


def half_in_x(rng: np.random.Generator) -> pl.DataFrame:
    return _shifted(rng, lambda n: n // 2, in_x=True)


def third_in_y(rng: np.random.Generator) -> pl.DataFrame:
    return _shifted(rng, lambda n: n // 3)


def two_rows(rng: np.random.Generator) -> pl.DataFrame:
    return _shifted(rng, lambda n: 2, size=5.0)


def slope_flipped(rng: np.random.Generator) -> pl.DataFrame:
    d = draw(rng, first_size=int(rng.integers(8, 31)))
    y, where = d.y, d.planted()
    y[where] -= 2 * SLOPE * d.x[where]
    return table(d.x, y, d.family)


NULLS = {
    f.__name__: f
    for f in (
        plain, noise_grows, slopes_differ, heavy_noise, curved, saturating, discrete,
        measurement_error, unequal_noise, near_copies, looser_copies, log_normal,
        heavy_effects, skewed_x, grid,
    )
}  # fmt: skip
POWER = {
    f.__name__: f
    for f in (
        whole_in_y, whole_in_x, half_in_y, half_in_x, third_in_y, two_rows, slope_flipped
    )
}  # fmt: skip
