"""What may be concluded from the pairs in depth: reversal, smallness, size, scale, controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flatscale.stats.estimators.equivalence import equivalence
from flatscale.stats.estimators.families import family_jackknife, within_family
from flatscale.stats.estimators.negative_controls import (
    TRIAL_NUMBER,
    negative_controls,
)
from flatscale.stats.estimators.required_number import required_number
from flatscale.stats.estimators.sign_reversal import sign_reversal
from flatscale.stats.estimators.skewness import skew_warning, skewness
from flatscale.stats.tables.declaration import (
    COUNT,
    REAL,
    REASON,
    TEXT,
    Column,
    Row,
    X,
    Y,
    interval,
    study_table,
)
from flatscale.stats.tables.study_data import StudyData, pair_of

_BOUND = 0.2
_HALF_WIDTHS = (0.2, 0.1)
_DRAWS = 40


@study_table(
    "sign_reversal",
    "whether pooling reverses the sign that holds inside families, for one pair",
    X,
    Y,
    Column("verdict", TEXT, "established, not established or same sign"),
    Column("within", REAL, "r within families"),
    Column("pooled", REAL, "r of all rows"),
    Column("difference", REAL, "atanh of r within less atanh of the pooled r"),
    *interval(title=""),
    Column("units", TEXT, "independent units: families, configurations or rows"),
    REASON,
)
def sign_reversals(study: StudyData) -> Iterator[Row]:
    """Simpson's paradox: established where all three intervals exclude zero."""
    for sample in study.in_depth:
        found = sign_reversal(sample, confidence=study.design.confidence)
        yield pair_of(sample) | {
            "verdict": found.verdict,
            "within": found.within.estimate,
            "pooled": found.pooled.estimate,
            "difference": found.difference.estimate,
            "conf_low": found.difference.conf_low,
            "conf_high": found.difference.conf_high,
            "units": found.difference.units,
            "reason": found.difference.reason,
        }


@study_table(
    "equivalence",
    "the test that one correlation of one pair is smaller than a bound",
    X,
    Y,
    Column("scope", TEXT, "pooled or within", "level"),
    Column("bound", REAL, "the bound of |r|", "bound", "correlation"),
    Column("estimate", REAL, "Pearson r", "r", "correlation"),
    Column(
        "p_value",
        REAL,
        "of two one-sided tests; small says that |r| is below the bound",
        "p of |r| ≥ bound",
        "probability",
    ),
    REASON,
    title="Is the correlation smaller than a bound?",
    caption="Two one-sided tests: a small p says that |r| is below the bound; a large one says "
    "nothing.",
)
def smaller_than_bound(study: StudyData) -> Iterator[Row]:
    """Pooled and within-family r against the bound .2."""
    confidence = study.design.confidence
    for sample in study.in_depth:
        for scope, found in (
            ("pooled", family_jackknife(sample, confidence=confidence)),
            ("within", within_family(sample, confidence=confidence)),
        ):
            test = equivalence(found, bound=_BOUND)
            yield pair_of(sample) | {
                "scope": scope,
                "bound": _BOUND,
                "estimate": found.estimate,
                "p_value": test.p_value,
                "reason": test.reason,
            }


@study_table(
    "required_numbers",
    "the study that an interval of one half width needs, for one pair",
    X,
    Y,
    Column("half_width", REAL, "half width of the interval of the pooled r", "±", "correlation"),
    Column("now", REAL, "half width of a balanced study as large as this one", "± now"),
    Column(
        "families",
        COUNT,
        "families needed, the rest as here; null where none are enough",
        "families needed",
    ),
    Column("configurations", COUNT, "configurations needed in each family", "configurations"),
    Column("seeds", COUNT, "seeds needed of each configuration", "seeds"),
    REASON,
    title="The study that an interval needs",
    caption="For an interval of r of the wanted half width: families, or configurations in each "
    "family, or seeds of each configuration, the other two as here. A dash: no number is enough. "
    "From variance components of this study; with few units right within a factor of two.",
)
def required_numbers(study: StudyData) -> Iterator[Row]:
    """Families, configurations or seeds for half widths of .2 and .1."""
    for sample in study.in_depth:
        for width in _HALF_WIDTHS:
            found = required_number(sample, half_width=width, confidence=study.design.confidence)
            yield pair_of(sample) | {
                "half_width": width,
                "now": found.now,
                "families": found.families,
                "configurations": found.configurations,
                "seeds": found.seeds,
                "reason": found.reason,
            }


@study_table(
    "scales",
    "the scale of one column of one pair",
    X,
    Y,
    Column("column", TEXT, "the column", "column"),
    Column("scale", TEXT, "raw or log, as declared", "declared scale"),
    Column("skewness", REAL, "sample skewness on that scale", "skewness"),
    Column("warning", TEXT, "what to know of it; null where the scale is not skewed", "note"),
    title="The declared scales",
    caption="Skewness is 0 for a symmetric column; beyond ±1 Pearson r rests on few networks.",
)
def scales(study: StudyData) -> Iterator[Row]:
    """Skewness of both columns on the scale declared."""
    for sample in study.in_depth:
        for name, values in ((sample.x_name, sample.x), (sample.y_name, sample.y)):
            logged = name in study.design.log
            yield pair_of(sample) | {
                "column": name,
                "scale": "log" if logged else "raw",
                "skewness": skewness(values),
                "warning": skew_warning(values, name, logged=logged),
            }


@study_table(
    "negative_controls",
    "a column that cannot matter in place of x of the primary pair",
    X,
    Y,
    Column("control", TEXT, "the column", "column"),
    Column("scope", TEXT, "pooled or within", "level"),
    Column("draws", COUNT, "independent draws with a test", "draws"),
    Column("wins", COUNT, "draws whose p-value is at most the design's alpha", "pass"),
    title="Columns that cannot matter",
    caption="A random column, the number of the trial and shuffled copies of x, tested as x is. "
    "About 5% should pass; no draws: there is no such test in this design.",
)
def controls_that_win(study: StudyData) -> Iterator[Row]:
    """How often random, numbered and shuffled columns go with y by the tests of the report."""
    sample, design = study.primary, study.design
    if sample.problem():
        return
    tests = {"pooled": family_jackknife, "within": within_family}
    draws: dict[tuple[str, str], list[bool]] = {}
    for draw in range(_DRAWS):
        made = negative_controls(
            {sample.x_name: sample.x},
            family=sample.family,
            configuration=sample.configuration,
            seed=design.seed + draw,
        )
        for name, values in made.items():
            if name == TRIAL_NUMBER:
                if draw:
                    continue
                values = sample.rows.astype(float)
            for scope, test in tests.items():
                kept = draws.setdefault((name, scope), [])
                p_value = test(replace(sample, x=values), confidence=design.confidence).p_value
                if p_value is not None:
                    kept.append(p_value <= design.alpha)
    for (name, scope), won in draws.items():
        yield pair_of(sample) | {
            "control": name,
            "scope": scope,
            "draws": len(won),
            "wins": sum(won),
        }
