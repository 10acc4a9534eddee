"""Every specification of the primary pair, on the data and on shuffles of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy import stats

from flatscale.stats.design import CONVERGED_SUFFIX, pair_sample
from flatscale.stats.estimators.negative_controls import shuffled_inside
from flatscale.stats.estimators.replication import (
    FAMILIES,
    MIN_FAMILIES,
    ROWS,
    Units,
    choose_units,
    recode,
)
from flatscale.stats.estimators.specification_curve import (
    MEAN,
    POOLED,
    WITHIN,
    Point,
    point_of_jackknife,
    point_of_synthesis,
)
from flatscale.stats.sample import Floats, Ints, Sample, numeric_column
from flatscale.stats.tables.declaration import (
    Row,
)
from flatscale.stats.tables.flagged_clusters import clusters_of
from flatscale.stats.tables.study_data import StudyData

ALL, ONE_EACH, NO_FAMILIES, RANK = "all", "one per family", "none", "rank"
_SHUFFLES = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Specification:
    """One set of choices: the columns that name it, and the curve's point."""

    choices: Row
    point: Point
    units: Units | None
    num_units: int
    num_trials: int


def specifications(study: StudyData) -> list[Specification]:
    """Every specification of the primary pair with its point, on the data and on shuffles."""
    design = study.design
    x, y = design.primary
    if study.primary.problem():
        return []
    flagged = study.once(clusters_of, study.primary).flagged_rows(study.primary.num_trials)
    clusters = frozenset(study.primary.rows[flagged].tolist())
    made: list[Specification] = []
    # of two variants of one measure none can stand for the other
    metrics, alike = (
        ((x,), (y,)) if y in design.stand_ins(x) else map(design.stand_ins, design.primary)
    )
    outcomes = dict.fromkeys((*alike, *(design.outcomes if y in design.outcomes else ())))
    for metric, outcome in itertools.product(metrics, outcomes):
        if outcome == metric:
            continue
        raw = _in_table_order(pair_sample(study.table, replace(design, log=()), metric, outcome))
        if raw.problem():
            continue
        sign = 1.0 if outcome in alike else _orientation(study.table, y, outcome)
        orders = _shuffles(raw, min(_SHUFFLES, design.num_resamples), design.seed)
        masks = list(_masks(study, raw, clusters))
        for scales in _scales(raw):
            named = {"metric": metric, "outcome": outcome if sign > 0 else f"{outcome} (-)"}
            named |= dict(zip(("scale_x", "scale_y"), scales, strict=True))
            on_declared = tuple("log" if name in design.log else "raw" for name in (x, y))
            declared = (metric, outcome, scales) == (x, y, on_declared)
            a, b = (
                np.log10(values) if scale == "log" else values
                for values, scale in zip((raw.x, raw.y), scales, strict=True)
            )
            for rows, mask in masks:
                one = named | {"rows": rows, "declared": declared and rows == ALL}
                ranked = scales[0] == RANK
                columns = sign * b[orders][:, mask]
                pair = (a[mask], columns) if not ranked else _ranks(a[mask], columns)
                made += _points(study, raw.keep(mask), pair, one)
    return made


def _points(
    study: StudyData, sample: Sample, pair: tuple[Floats, Floats], choices: Row
) -> Iterator[Specification]:
    """The estimators of one scale and set of rows, for each definition of families."""
    x, y = pair
    n = len(x)
    whole = np.zeros(n, dtype=np.int64)
    choices = choices | {"method": "spearman" if choices["scale_x"] == RANK else "pearson"}
    if sample.problem():
        return
    for name, family in _definitions(study, sample, one_each=choices["rows"] == ONE_EACH):
        declared = choices["declared"] and name == (study.design.family or NO_FAMILIES)
        one = choices | {"families": name, "declared": declared}
        units = choose_units(n, family, sample.configuration)
        tested, over_families = units.num_strata == 1, units.level == FAMILIES
        point = point_of_jackknife(
            x, y, whole, units.codes, over_families=over_families, tested=tested
        )
        yield _specified(one, POOLED, point, units, n)
        if family is None:
            continue
        inside = _inside_units(x, y[0], family, sample.configuration)
        point = point_of_jackknife(x, y, recode(family), inside.codes)
        yield _specified(one, WITHIN, point, inside, n)
        point = point_of_synthesis(x, y, recode(family))
        yield _specified(one, MEAN, point, Units(level=FAMILIES, codes=recode(family)), n)


def _specified(choices: Row, scope: str, point: Point, units: Units, n: int) -> Specification:
    num_units = units.count if scope != MEAN else int(np.nan_to_num(point.degrees[0], nan=-1)) + 1
    return Specification(
        choices=choices | {"scope": scope, "method": "reml"} if scope == MEAN
        else choices | {"scope": scope},
        point=point,
        units=units,
        num_units=num_units,
        num_trials=n,
    )  # fmt: skip


def _inside_units(x: Floats, y: Floats, family: Ints, configuration: Ints | None) -> Units:
    """The units of r within families: families where five or more have something to say."""
    codes = recode(family)

    def varies(values: Floats) -> np.ndarray:
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(int(codes.max()) + 1))
        top = np.maximum.reduceat(values[order], starts)
        return np.asarray(top > np.minimum.reduceat(values[order], starts))

    speaking = int(np.sum(varies(x) & varies(y)))
    if speaking >= MIN_FAMILIES:
        return Units(level=FAMILIES, codes=codes)
    own = np.arange(len(x)) if configuration is None else configuration
    inside = recode(np.stack([codes, own], axis=1))
    replicated = int(inside.max()) + 1 < len(x)
    return Units(level="configurations" if replicated else ROWS, codes=inside, strata=codes)


def _in_table_order(sample: Sample) -> Sample:
    """The sample in the table's order, in which every outcome is shuffled alike."""
    order = np.argsort(sample.rows)
    return replace(
        sample,
        x=sample.x[order],
        y=sample.y[order],
        family=None if sample.family is None else sample.family[order],
        labels=sample.labels[order],
        rows=sample.rows[order],
        x_error=None,
        y_error=None,
        configuration=None if sample.configuration is None else sample.configuration[order],
    )


def _orientation(table: pl.DataFrame, y: str, outcome: str) -> float:
    """The sign of an outcome's rank correlation with y, at least where it has one."""
    a, b = numeric_column(table, y), numeric_column(table, outcome)
    known = np.isfinite(a) & np.isfinite(b)
    if outcome == y or known.sum() < 3 or min(np.ptp(a[known]), np.ptp(b[known])) == 0:
        return 1.0
    return -1.0 if stats.spearmanr(a[known], b[known]).statistic < 0 else 1.0


def _shuffles(sample: Sample, count: int, seed: int) -> Ints:
    """Orders of the rows (1 + count, n): as they are, then shuffled inside families."""
    n, rng = sample.num_trials, np.random.default_rng(seed)
    strata = np.zeros(n, dtype=np.int64) if sample.family is None else sample.family
    own = np.arange(n) if sample.configuration is None else sample.configuration
    cells = recode(np.stack([strata, own], axis=1))
    made = [np.arange(n), *(shuffled_inside(strata, cells, rng) for _ in range(count))]
    return np.stack(made)


def _scales(sample: Sample) -> list[tuple[str, str]]:
    possible = [("raw", "log") if values.min() > 0 else ("raw",) for values in (sample.x, sample.y)]
    return [*((a, b) for a in possible[0] for b in possible[1]), (RANK, RANK)]


def _ranks(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    return stats.rankdata(x), stats.rankdata(y, axis=1)


def _masks(
    study: StudyData, sample: Sample, clusters: frozenset[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Each choice of rows by its name."""
    n = sample.num_trials
    yield ALL, np.ones(n, dtype=bool)
    if clusters:
        yield "without clusters", ~np.isin(sample.rows, list(clusters))
    flags = [f"{name}{CONVERGED_SUFFIX}" for name in (sample.x_name, sample.y_name)]
    present = [flag for flag in flags if flag in study.table.columns]
    if present:
        good = study.table.select(
            pl.all_horizontal(pl.col(flag).cast(pl.Boolean).fill_null(True) for flag in present)
        ).to_series()
        yield "converged only", good.to_numpy()[sample.rows]
    if sample.family is not None and len(sample.family_names) < n:
        first: dict[int, int] = {}
        for position in np.argsort(sample.labels, kind="stable"):
            first.setdefault(int(sample.family[position]), int(position))
        yield ONE_EACH, np.isin(np.arange(n), list(first.values()))


def _definitions(
    study: StudyData, sample: Sample, *, one_each: bool
) -> Iterator[tuple[str, Ints | None]]:
    """Definitions of families: the declared one, other columns of text, none."""
    declared = study.design.family
    if sample.family is not None and not one_each:
        yield str(declared), sample.family
        seen = [recode(sample.family)]
        for name in (*study.design.subsets, *study.design.hyperparameters):
            if study.table[name].dtype != pl.String:
                continue
            values = study.table[name].fill_null("missing").to_numpy()[sample.rows]
            codes = recode(np.asarray(values, dtype=np.str_))
            # the same families under other codes are no other choice
            known = any(
                len(recode(np.stack([codes, other], axis=1)))
                and int(recode(np.stack([codes, other], axis=1)).max())
                == int(codes.max())
                == int(other.max())
                for other in seen
            )
            if int(codes.max()) > 0 and not known:
                seen.append(codes)
                yield name, codes
    yield NO_FAMILIES, None
