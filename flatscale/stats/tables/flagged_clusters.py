"""The family scan of a pair: every family and side, its members, what r is without them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl

from flatscale.stats.design import CONVERGED_SUFFIX, StudyDesign
from flatscale.stats.estimators.outlier_clusters import SIDES, Scan, scan_families
from flatscale.stats.estimators.subset_scan import OUTLIER_Z
from flatscale.stats.pair import headline
from flatscale.stats.sample import Sample, select_pair
from flatscale.stats.tables.declaration import (
    COUNT,
    FLAG,
    P_VALUE,
    REAL,
    TABLES,
    TEXT,
    Column,
    Row,
    X,
    Y,
    number_of_trials,
    statistic_columns,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, pair_of, with_q_values

SMALL_CLUSTER = "two rows: at the limit of what a permutation test can tell, not a family effect"
ONE_ROW = "one row, or near copies of one: nothing to scan"
NO_SLOPE = "too few rows or families for a slope of its own, or the others alike in their mean x"
_FAMILY = Column("family", TEXT, "the family", "family")
_LABEL = Column("label", TEXT, "the row's label", "network")


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """The scan of one pair.

    Attributes:
        rows: the rows of the table `clusters`, smallest p first.
        flagged: for each flagged `family (side)` the positions of its members in the sample.
        scan: what the estimator found.
    """

    rows: list[Row]
    flagged: dict[str, np.ndarray]
    scan: Scan

    def flagged_rows(self, num_rows: int) -> np.ndarray:
        """Which rows belong to any flagged cluster."""
        mask = np.zeros(num_rows, dtype=bool)
        for members in self.flagged.values():
            mask[members] = True
        return mask


def clusters_of(study: StudyData, sample: Sample) -> Clusters:
    """The scan of a pair of a study."""
    return find_clusters(sample, study.design)


def find_clusters(sample: Sample, design: StudyDesign) -> Clusters:
    """The family scan of a pair with q-values over families x sides."""
    scan = scan_families(
        sample, num_resamples=design.num_resamples, seed=design.seed, alpha=design.alpha
    )
    found: list[tuple[Row, np.ndarray]] = []
    for index, p in enumerate(scan.p_value.ravel()):
        code, side = divmod(index, len(SIDES))
        members = scan.members[code][side]
        row = pair_of(sample) | {
            "family": sample.family_names[code],
            "side": SIDES[side],
            "num_trials": int(np.sum(sample.family == code)),
            "num_members": len(members),
            "members": [str(label) for label in sample.labels[members]],
            "test": scan.test[code][side],
            "num_copies": int(scan.num_copies[code]),
            "clumped": bool(scan.clumped[code]),
            "p_value": None if math.isnan(p) else float(p),
        }
        if math.isnan(p):
            few = NO_SLOPE if side == 2 else ONE_ROW
            row["reason"] = scan.reason or few
        elif scan.residuals is not None:
            row["mean_z"] = float(scan.residuals.z[members].mean())
            row["family_scale"] = float(scan.family_scale[code])
            if side < 2:
                row["statistic"] = float(scan.log_score[code, side])
            row["reason"] = SMALL_CLUSTER if len(members) == 2 else None
        found.append((row, members))
    rows = with_q_values(row for row, _ in found)
    flagged: dict[str, np.ndarray] = {}
    for row, (_, members) in zip(rows, found, strict=True):
        row["flagged"] = row["q_value"] is not None and row["q_value"] <= design.alpha
        if row["flagged"]:
            flagged[f"{row['family']} ({row['side']})"] = members
    rows.sort(
        key=lambda row: (row["p_value"] is None, row["p_value"] or 0, row["family"], row["side"])
    )
    return Clusters(rows=rows, flagged=flagged, scan=scan)


@study_table(
    "clusters",
    "one family and side of the family scan of one pair",
    X,
    Y,
    _FAMILY,
    Column(
        "side",
        TEXT,
        "above or below the line (the curve where the check of linearity fails), or across: the "
        "family's slope",
        "side",
    ),
    Column(
        "test",
        TEXT,
        "which test gave the smaller p: subset (some of its rows), family in y or family in x (its "
        "mean against the other families'), slope (its slope against theirs)",
        "test",
    ),
    number_of_trials("networks", "rows of the family"),
    Column("num_members", COUNT, "rows of the family that make the cluster", "in the cluster"),
    Column("members", pl.List(pl.String()), "labels of the members"),
    Column("mean_z", REAL, "mean standardised residual of the members", "mean z"),
    Column(
        "statistic",
        REAL,
        "-log10 S of the subset test, S = min over k >= 2 of P(Bin(n, p_(k)) >= k)",
        "statistic",
    ),
    Column(
        "family_scale",
        REAL,
        "standard deviation inside the family over that of all, shrunken toward 1",
        "scale",
    ),
    Column("num_copies", COUNT, "rows counted as near copies of another", "near copies"),
    Column(
        "clumped",
        FLAG,
        "the family's rows, copies merged, lie nearer to their nearest neighbours than independent "
        "rows with the residuals of the other families (p <= 0.05): a flag of it is a question",
        "in clumps",
    ),
    replace(
        P_VALUE,
        meaning="smallest p over the tests of this side, each over its share of the level: subset "
        "(1 + #{null >= observed}) / (B + 1) over 0.6, family in y and in x t tests over 0.2; "
        "across: two-sided t test",
    ),
    Column("q_value", REAL, "Benjamini-Hochberg over families x sides", "q", "probability"),
    Column("flagged", FLAG, "q <= alpha"),
    Column("reason", TEXT, "why the family was not scanned, or what limits the claim", "note"),
    title="Outlier clusters: the family scan",
    caption="One row per family and side of the line, and one for its slope (across). q: "
    "Benjamini–Hochberg over families and sides, against a null in which families differ in level "
    "and in scatter as families do. Flagged rows are bold; all others were looked at, too.",
    emphasis=lambda row: bool(row["flagged"]),
)
def clusters(study: StudyData) -> Iterator[Row]:
    """Every family and side of each pair, flagged or not."""
    for sample in study.in_depth:
        yield from study.once(clusters_of, sample).rows


@study_table(
    "linearity",
    "the check of linearity of one pair, made before the scan",
    X,
    Y,
    Column("score_square", REAL, "second-degree score over its standard error", "square"),
    Column("score_cube", REAL, "third-degree score over its standard error", "cube"),
    replace(P_VALUE, meaning="of the larger score, families as units, random signs of families"),
    Column("curved", FLAG, "p <= 0.05: residuals are taken from a monotone curve", "curved"),
    Column("log_x", FLAG, "the scan replaced x by log10 x, as residuals are skewed"),
    Column("log_y", FLAG, "the scan replaced y by log10 y, as residuals are skewed"),
    Column("reason", TEXT, "why there is no check", "note"),
    title="Is the relation a line?",
    caption="Second- and third-degree terms beside the line, families as units. Where the check "
    "fails, the scan below takes residuals from a robust monotone curve.",
    emphasis=lambda row: bool(row["curved"]),
)
def linearity(study: StudyData) -> Iterator[Row]:
    """The check of linearity of each pair, and the scale the scan works on."""
    for sample in study.in_depth:
        scan = study.once(clusters_of, sample).scan
        row = pair_of(sample) | {"log_x": scan.log_scale[0], "log_y": scan.log_scale[1]}
        if scan.linearity is None:
            yield row | {"reason": scan.reason or "fewer than 5 families or 5 different x"}
            continue
        yield row | {
            "score_square": scan.linearity.score_square,
            "score_cube": scan.linearity.score_cube,
            "p_value": scan.linearity.p_value,
            "curved": scan.linearity.curved,
        }


@study_table(
    "cluster_effects",
    "one headline statistic of one pair, without one flagged cluster (or all of them)",
    X,
    Y,
    Column("removed", TEXT, "`none`, `<family> (<side>)`, or `all flagged`", "removed"),
    Column("num_removed", COUNT, "rows removed", "networks removed"),
    *statistic_columns(estimate="r", num_trials="networks"),
    title="Correlations with and without the clusters",
    caption="The same headline numbers after removing each flagged cluster, and all of them. "
    "Nothing was removed anywhere else in this report.",
    emphasis=lambda row: row["removed"] == "none",
)
def cluster_effects(study: StudyData) -> Iterator[Row]:
    """The headline with all rows, without each flagged cluster, and without all of them."""
    for sample in study.in_depth:
        found = study.once(clusters_of, sample)
        removals: dict[str, np.ndarray] = {"none": np.zeros(0, dtype=np.int64)} | found.flagged
        if len(found.flagged) > 1:
            removals["all flagged"] = np.flatnonzero(found.flagged_rows(sample.num_trials))
        for name, members in removals.items():
            mask = np.ones(sample.num_trials, dtype=bool)
            mask[members] = False
            for value in headline(
                sample.keep(mask),
                methods=("pearson", "spearman"),
                confidence=study.design.confidence,
            ):
                yield asdict(value) | {"removed": name, "num_removed": len(members)}


@study_table(
    "residuals",
    "one row of the study in one pair",
    X,
    Y,
    _LABEL,
    _FAMILY,
    Column("x_value", REAL, "x on the scale analysed"),
    Column("y_value", REAL, "y on the scale analysed"),
    Column(
        "residual",
        REAL,
        "y minus the robust line, on the scale the scan works on; minus the monotone curve where "
        "the check of linearity fails",
    ),
    Column("z", REAL, "residual over its local robust standard deviation"),
    Column("flagged", FLAG, "member of a cluster with q <= alpha"),
    Column("outlier", FLAG, "|z| > 3.5"),
    Column("converged", FLAG, "both estimates converged (null: not recorded)"),
)
def residuals(study: StudyData) -> Iterator[Row]:
    """The standardised residuals that the scan is made from."""
    for sample in study.in_depth:
        found = study.once(clusters_of, sample)
        standard = found.scan.residuals
        if standard is None:
            continue
        flagged = found.flagged_rows(sample.num_trials)
        converged = _converged(sample, study.table)
        for k in range(sample.num_trials):
            z = float(standard.z[k])
            yield pair_of(sample) | {
                "label": str(sample.labels[k]),
                "family": None if sample.family is None else sample.family_names[sample.family[k]],
                "x_value": float(sample.x[k]),
                "y_value": float(sample.y[k]),
                "residual": float(standard.residual[k]),
                "z": z,
                "flagged": bool(flagged[k]),
                "outlier": abs(z) > OUTLIER_Z,
                "converged": None if converged is None else bool(converged[k]),
            }


@study_table(
    "outlier_rows",
    "one row with |z| > 3.5; descriptive, no test",
    X,
    Y,
    _LABEL,
    _FAMILY,
    Column("z", REAL, "standardised residual", "z"),
    title="Single networks far from the line",
    caption="Standardised residual beyond 3.5; a description, not a test.",
)
def outlier_rows(study: StudyData) -> list[Row]:
    """Single rows far from the line, the farthest of each pair first."""
    pairs = list(study.design.deep_pairs)
    far = [row for row in residuals(study) if row["outlier"]]
    return sorted(far, key=lambda row: (pairs.index((row["x"], row["y"])), -abs(row["z"])))


def _converged(sample: Sample, table: pl.DataFrame) -> np.ndarray | None:
    """Whether both estimates of each row converged; None where neither column records it."""
    columns = [f"{name}{CONVERGED_SUFFIX}" for name in (sample.x_name, sample.y_name)]
    present = [column for column in columns if column in table.columns]
    if not present:
        return None
    flags = [table[column].cast(pl.Boolean).fill_null(True).to_numpy() for column in present]
    return np.logical_and.reduce(flags)[sample.rows]


def family_scan(
    df: pl.DataFrame,
    x: str,
    y: str,
    *,
    family: str = "family",
    label: str | None = None,
    log: Collection[str] = (),
    alpha: float = 0.05,
    num_resamples: int = 2000,
    seed: int = 0,
) -> pl.DataFrame:
    """Subsets of families that lie off the robust line beyond ordinary family differences.

    The columns are those of `TABLES["clusters"]`: one row a family and side, smallest p first. See
    `scan_families` for the method.

    Args:
        df: one row a network.
        x, y: the pair of columns.
        family: column of families.
        label: column that names each row once; without it `members` are row numbers.
        log: columns replaced by log10.
        alpha: a row is `flagged` where q <= alpha.
        num_resamples: draws of the null.
        seed: of the draws.

    Raises:
        StatsError: as `analyze`.
    """
    sample = select_pair(df, x, y, family=family, label=label, log=log)
    design = StudyDesign(
        primary=(x, y), family=family, alpha=alpha, num_resamples=num_resamples, seed=seed
    )
    return TABLES["clusters"].frame(find_clusters(sample, design).rows)
