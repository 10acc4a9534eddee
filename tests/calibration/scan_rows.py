"""The family scan: tables it must leave alone, and clusters it must find."""

from __future__ import annotations

import functools

import numpy as np

from flatscale.stats.estimators.multiplicity import adjust
from flatscale.stats.estimators.outlier_clusters import Scan, scan_families
from tests.calibration.harness import ALPHA, MOST_SCANS, Simulated, column, row
from tests.stats.scan_cases import NULLS, PLANTED, POWER

GROUP = "family scan"
SHOWN = ("false flag", "planted family found", "called curved")
TOO_MANY = ("looser_copies", "heavy_effects")
"""Nulls without a limit: beyond what the scan promises, shown for what they are."""
FOUND = {
    "whole_in_y": 85.0,
    "whole_in_x": 45.0,
    "half_in_y": 80.0,
    "third_in_y": 80.0,
    "two_rows": 80.0,
}


@functools.lru_cache(maxsize=4)
def scanned(table: Simulated) -> tuple[Scan, frozenset[str]]:
    """The scan of a table and the families it flags at q <= 5%."""
    sample = table.sample()
    scan = scan_families(sample)
    flat = scan.p_value.ravel()
    q_values = adjust([None if np.isnan(p) else float(p) for p in flat])
    sides = scan.p_value.shape[1]
    named = frozenset(
        sample.family_names[index // sides]
        for index, q in enumerate(q_values)
        if q is not None and q <= ALPHA
    )
    return scan, named


@column("false flag", group=GROUP)
def false_flag(table: Simulated) -> bool:
    return bool(scanned(table)[1] - {table.extra["planted"]})


@column("planted family found", group=GROUP)
def found(table: Simulated) -> bool | None:
    planted = table.extra["planted"]
    return None if planted is None else planted in scanned(table)[1]


@column("called curved", group=GROUP)
def called_curved(table: Simulated) -> bool:
    linearity = scanned(table)[0].linearity
    return linearity is not None and linearity.curved


def _register(name: str, planted: str | None, limits: dict[str, tuple[float, float]]) -> None:
    def generate(rng: np.random.Generator) -> Simulated:
        made = {**NULLS, **POWER}[name](rng)
        codes = [int(family[1:]) for family in made["family"]]
        return Simulated(
            x=made["x"].to_numpy(),
            y=made["y"].to_numpy(),
            family=np.array(codes),
            extra={"planted": planted},
        )

    title = f"scan: {name.replace('_', ' ')}"
    row(title, group=GROUP, limits=limits, columns=SHOWN, most=MOST_SCANS)(generate)


for null in NULLS:
    _register(null, None, {} if null in TOO_MANY else {"false flag": (0, 8)})
for case in POWER:
    least = FOUND.get(case)
    _register(case, PLANTED, {} if least is None else {"planted family found": (least, 100)})
