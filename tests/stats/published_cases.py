"""Every published value that is checked: what was printed, where, and what flatscale gives.

`tests/stats/test_published.py` holds the values, and `docs/conformance.md` is printed from them:
`python -m tests.stats.published_cases > docs/conformance.md`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats
from sklearn.datasets import load_iris

from flatscale.stats import (
    adjust,
    analyze,
    bca_interval,
    correlate,
    estimate_correlation,
    mixed_model,
    partial_correlation,
    repeated_measures,
    robust_line,
    select_pair,
    synthesize,
)
from flatscale.stats.estimators.meta_regression import MetaRegression, meta_regression
from flatscale.stats.estimators.partial_pooling import Priors, pool_partially
from tests.stats import published

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "published"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One published value.

    Attributes:
        data: the data set.
        quantity: what was computed.
        published, tolerance: the value as printed, and how far from it ours may lie: half a digit
            of the last one printed, or more where `note` says why.
        source: where it is printed.
        ours: computes it here.
        note: errata, and why a tolerance is wider.
        file: table it needs from outside the repository, in DATA; empty where it needs none.
    """

    data: str
    quantity: str
    published: float
    tolerance: float
    source: str
    ours: Callable[[], float]
    note: str = ""
    file: str = ""

    @property
    def name(self) -> str:
        return f"{self.data}: {self.quantity}"

    @property
    def available(self) -> bool:
        """Whether the table that it needs is here."""
        return not self.file or (DATA / self.file).is_file()


def cases() -> list[Case]:
    """All of them, in the order of the page."""
    parts = (_stars, _anscombe, _law_school, _iris, _bland_altman, _bend, _molloy, _bcg, _pooling,
             _false_discovery, _sleep, _mtcars, _baseline)  # fmt: skip
    return [case for part in parts for case in part()]


@cache
def _star_line() -> tuple[float, float]:
    line = robust_line(select_pair(published.STARS, "log_temperature", "log_light"))
    assert line is not None
    return line.slope, line.intercept


def _stars() -> Iterator[Case]:
    source = "Rousseeuw & Leroy (1987), p. 27; lines by R's robustbase, lmrob"
    wide = "a deterministic start ends a little elsewhere than a random one"
    for k, (name, value, room) in enumerate(
        (("MM slope", 2.253, 0.05), ("MM intercept", -4.969, 0.2))
    ):
        yield Case(
            data="Star cluster CYG OB1", quantity=name, published=value, tolerance=room,
            source=source, ours=lambda k=k: _star_line()[k], note=wide,
        )  # fmt: skip
    t, light = (published.STARS[c].to_numpy() for c in ("log_temperature", "log_light"))
    yield Case(
        data="Star cluster CYG OB1", quantity="Pearson r", published=-0.210, tolerance=5e-4,
        source="Rousseeuw & Leroy (1987), p. 27",
        ours=lambda: float(estimate_correlation(t, light).estimate or 0),
    )  # fmt: skip


def _anscombe() -> Iterator[Case]:
    source = "Anscombe (1973), The American Statistician 27, 17-21; r as R prints it"
    for number, (pair, r) in enumerate(
        zip(published.ANSCOMBE, (0.81642, 0.81624, 0.81629, 0.81652), strict=True), 1
    ):
        x, y = (np.array(values) for values in pair)
        for name, value, room, column in (
            ("Pearson r", r, 6e-6, "estimate"), ("p of the slope", 0.0022, 5e-5, "p_value"),
        ):  # fmt: skip
            yield Case(
                data=f"Anscombe {number}", quantity=name, published=value, tolerance=room,
                source=source,
                ours=lambda x=x, y=y, column=column: correlate(
                    pl.DataFrame({"x": x, "y": y}), "x", "y", methods=["pearson"]
                )[column][0],
            )  # fmt: skip


def _law_school() -> Iterator[Case]:
    @cache
    def found():
        lsat, gpa = (published.LAW_SCHOOL[c].to_numpy().astype(float) for c in ("lsat", "gpa"))
        return bca_interval(lsat, gpa, confidence=0.90, num_resamples=40_000, seed=1)

    for name, value, room, key in (
        ("Pearson r", 0.776, 5e-4, "estimate"),
        ("BCa 90% from", 0.43, 0.015, "conf_low"),
        ("BCa 90% to", 0.92, 0.015, "conf_high"),
    ):
        yield Case(
            data="15 law schools", quantity=name, published=value, tolerance=room,
            source="Efron (1987), JASA 82, 171-185",
            ours=lambda key=key: getattr(found(), key),
            note="" if key == "estimate" else "both ends are resampled, there and here",
        )  # fmt: skip


def _iris() -> Iterator[Case]:
    @cache
    def found() -> pl.DataFrame:
        iris = load_iris()
        names = iris.target_names[iris.target].tolist()
        columns = {"length": iris.data[:, 0], "width": iris.data[:, 1], "species": names}
        return analyze(pl.DataFrame(columns), "length", "width", family="species")

    for scope, value in (
        ("pooled", -0.1175698),
        ("family:setosa", 0.7425467),
        ("family:versicolor", 0.5259107),
        ("family:virginica", 0.4572278),
    ):
        yield Case(
            data="Iris sepals", quantity=f"Pearson r, {scope}", published=value, tolerance=1e-6,
            source="R, cor(iris$Sepal.Length, iris$Sepal.Width), and by species",
            ours=lambda scope=scope: found().filter(scope=scope, method="pearson")["estimate"][0],
        )  # fmt: skip


def _bland_altman() -> Iterator[Case]:
    @cache
    def found():
        return repeated_measures(
            select_pair(published.BLAND_ALTMAN, "ph", "paco2", family="subject")
        )

    paper = "Bland & Altman (1995), BMJ 310, 446"
    rmcorr = "Bakdash & Marusich (2017), Front. Psychol. 8:456; R's rmcorr"
    printed = "the paper prints r = -0.51 and p = 0.0008"
    for name, value, room, key, source, note in (
        ("r within subjects", -0.507, 5e-4, "estimate", rmcorr, printed),
        ("p", 0.0008, 5e-5, "p_value", paper, ""),
        ("95% from", -0.707, 1e-3, "conf_low", rmcorr, ""),
        ("95% to", -0.232, 1e-3, "conf_high", rmcorr, ""),
    ):
        yield Case(
            data="Intramural pH and PaCO2", quantity=name, published=value, tolerance=room,
            source=source, ours=lambda key=key: getattr(found(), key), note=note,
        )  # fmt: skip


def _bend() -> Iterator[Case]:
    software = "Wilcox's software Rallfun-v45, pbcor"
    erratum = "the book's text rounds 0.8 n, the software takes its floor: ours is the software's"
    for name, x, y, value, room in (
        ("ten rows", np.arange(1.0, 11), np.array([2.0, 4, 5, 9, 10, 13, 14, 17, 18, 21]),
         0.9947292172, 1e-9),
        ("seven rows", np.array([-3.0, -2, -1, 0, 1, 2, 30]), np.array([2.0, 1, 3, 4, 5, 7, 6]),
         1.0, 1e-9),
    ):  # fmt: skip
        yield Case(
            data="Percentage bend", quantity=f"r, {name}", published=value, tolerance=room,
            source=software, note=erratum,
            ours=lambda x=x, y=y: float(
                estimate_correlation(x, y, "percentage_bend").estimate or 0
            ),
        )  # fmt: skip


def _molloy() -> Iterator[Case]:
    @cache
    def found():
        z = np.arctanh(np.array(published.MOLLOY_R))
        return synthesize(z, 1 / (np.array(published.MOLLOY_N) - 3.0))

    for name, value, room, key in (
        ("mean z", 0.1499, 5e-5, "z"), ("standard error", 0.0316, 5e-5, "wald_std_error"),
        ("tau^2, REML", 0.0081, 5e-5, "tau_squared"), ("I^2", 0.6173, 5e-5, "i_squared"),
        ("Q", 38.1595, 5e-4, "q_statistic"), ("p of Q", 0.0009, 5e-5, "q_p_value"),
    ):  # fmt: skip
        yield Case(
            data="Conscientiousness and adherence", quantity=name, published=value,
            tolerance=room, source="metadat's dat.molloy2014 by metafor's rma; metafor-project.org",
            ours=lambda key=key: getattr(found(), key),
        )  # fmt: skip


@cache
def _regression(*columns: int) -> MetaRegression:
    z, variance = published.log_risk_ratios()
    return meta_regression(z, variance, np.array(published.BCG, dtype=float)[:, list(columns)])


def _bcg() -> Iterator[Case]:
    def mean(key: str) -> float:
        return float(getattr(synthesize(*published.log_risk_ratios()), key))

    def statistic(k: int) -> float:
        found = _regression(4, 5)
        return float(found.coefficients[k] / found.wald_std_errors[k])

    package = "Viechtbauer (2010), J. Stat. Software 36 (3), section 3; metafor's dat.bcg"
    manual = "metafor's rma(yi, vi, mods = ~ ablat, data = dat.bcg)"

    def one(key: str, k: int | None = None) -> Callable[[], float]:
        return lambda: float(np.atleast_1d(getattr(_regression(4), key))[k or 0])

    for name, value, room, source, ours in (
        ("mean log risk ratio", -0.7145, 5e-5, package, lambda: mean("z")),
        ("tau^2, REML", 0.3132, 1e-4, package, lambda: mean("tau_squared")),
        ("latitude: tau^2 left", 0.0764, 1e-4, manual, one("tau_squared")),
        ("latitude: explained", 0.7562, 1e-4, manual, one("explained")),
        ("latitude: intercept", 0.2515, 1e-4, manual, one("coefficients", 0)),
        ("latitude: its error", 0.2491, 1e-4, manual, one("wald_std_errors", 0)),
        ("latitude: slope", -0.0291, 5e-5, manual, one("coefficients", 1)),
        ("latitude: error of slope", 0.0072, 5e-5, manual, one("wald_std_errors", 1)),
        ("latitude: Q of the rest", 30.7331, 1e-4, manual, one("q_statistic")),
        ("latitude: p of Q", 0.0012, 5e-5, manual, one("q_p_value")),
        ("latitude and year: tau^2 left", 0.1108, 5e-5, package,
         lambda: _regression(4, 5).tau_squared),
        ("latitude and year: z of latitude", -2.74, 5e-3, package, lambda: statistic(1)),
        ("latitude and year: z of year", 0.13, 5e-3, package, lambda: statistic(2)),
        ("latitude and year: Q of the rest", 28.33, 5e-3, package,
         lambda: _regression(4, 5).q_statistic),
    ):  # fmt: skip
        yield Case(
            data="BCG vaccine", quantity=name, published=value, tolerance=room, source=source,
            ours=ours,
        )  # fmt: skip


def _pooling() -> Iterator[Case]:
    @cache
    def found():
        effects, variance = np.array([11.0, 13, 16]), np.array([1.0, 1, 4])

        def jeffreys(tau: np.ndarray) -> np.ndarray:
            return np.sqrt(np.sum((tau[:, None] / (variance + tau[:, None] ** 2)) ** 2, axis=1))

        return pool_partially(effects, variance, Priors(name="", tau=jeffreys, sd=math.inf))

    for name, value, ours in (
        ("median of tau", 2.35487034, lambda: found().tau_quantile(0.5)),
        ("mean of tau", 3.67647047, lambda: float(found().weights @ found().tau)),
        ("median of mu", 12.855986, lambda: found().mean.quantile(0.5)),
        ("mean of mu", 12.980341, lambda: found().mean.mean),
        ("median of the first effect", 11.4313117, lambda: found().families[0].quantile(0.5)),
        ("median of the third effect", 14.439061, lambda: found().families[2].quantile(0.5)),
        ("sd of the first effect", 0.9927761, lambda: found().families[0].sd),
        ("sd of the third effect", 1.888808, lambda: found().families[2].sd),
    ):
        yield Case(
            data="Three estimates 11, 13, 16 with errors 1, 1, 2", quantity=name, published=value,
            tolerance=1e-3, source="R's bayesmeta (Roever 2020), Jeffreys' prior of tau, mu flat",
            ours=ours, note="bayesmeta's grid is accurate to about the third decimal",
        )  # fmt: skip


def _false_discovery() -> Iterator[Case]:
    adjusted = [q for q in adjust(published.BENJAMINI_HOCHBERG) if q is not None]
    yield Case(
        data="15 p-values", quantity="rejected at 0.05", published=4, tolerance=0,
        source="Benjamini & Hochberg (1995), JRSS B 57, 289-300, section 4",
        ours=lambda: float(sum(q <= 0.05 for q in adjusted)),
    )  # fmt: skip
    for k, value in enumerate((0.0015, 0.003, 0.0095, 0.035625, 0.0603)):
        yield Case(
            data="15 p-values", quantity=f"q of number {k + 1}", published=value, tolerance=1e-6,
            source='R, p.adjust(p, "BH")', ours=lambda k=k: adjusted[k],
        )  # fmt: skip


def _sleep() -> Iterator[Case]:
    @cache
    def terms():
        sample = select_pair(published.SLEEP, "days", "reaction", family="subject")
        return {term.term: term for term in mixed_model(sample, center=False).terms}

    for term, key, value, room in (
        ("slope", "estimate", 10.467, 1e-3), ("slope", "std_error", 1.546, 1e-3),
        ("intercept", "estimate", 251.405, 1e-3), ("intercept", "std_error", 6.825, 1e-3),
        ("sd_intercept", "estimate", 24.741, 0.01), ("sd_slope", "estimate", 5.922, 0.005),
        ("sd_residual", "estimate", 25.592, 0.002),
    ):  # fmt: skip
        yield Case(
            data="Sleep study", quantity=f"{term}, {key.replace('_', ' ')}", published=value,
            tolerance=room, source="Bates et al. (2015), J. Stat. Software 67 (1); R's lme4, lmer",
            ours=lambda term=term, key=key: getattr(terms()[term], key),
        )  # fmt: skip


def _mtcars() -> Iterator[Case]:
    def found(key: str) -> float:
        mpg, hp, wt = (published.MTCARS[c].to_numpy().astype(float) for c in ("mpg", "hp", "wt"))
        return float(getattr(partial_correlation(mpg, hp, wt[:, None]), key))

    source = "R's mtcars (Henderson & Velleman 1981), summary(lm(mpg ~ wt + hp))"
    r = -3.519 / math.sqrt(3.519**2 + 29)
    for name, value, room, key in (
        ("partial r of mpg and hp given wt, from t = -3.519", r, 2e-4, "estimate"),
        ("its p", 0.00145, 5e-6, "p_value"),
    ):
        yield Case(
            data="Motor cars", quantity=name, published=value, tolerance=room, source=source,
            ours=lambda key=key: found(key),
        )  # fmt: skip


def _baseline() -> Iterator[Case]:
    image, text = "cifar10_320_networks.csv", "char_lm_100_transformers.csv"
    for file, metric, raw, given in (
        (image, "sam_sharpness", -0.127, -0.172), (image, "asam_sharpness", -0.171, -0.271),
        (image, "fim_norm", -0.651, -0.199), (image, "random_metric", 0.004, -0.047),
        (text, "asam_sharpness", -0.829, -0.339), (text, "brier", -0.433, -0.056),
    ):  # fmt: skip
        for name, value, controlled in (("rank r", raw, False), ("partial rank r", given, True)):
            yield Case(
                data=f"{320 if file == image else 100} networks, {metric} and accuracy",
                quantity=f"{name} given the hyperparameters" if controlled else name,
                published=value, tolerance=6e-4, file=file,
                source="marginal-baseline-eval at 1beed740, experiments/07_jmlr_scale, its audits",
                ours=lambda file=file, metric=metric, controlled=controlled: _rank_r(
                    file, metric, controlled=controlled
                ),
            )  # fmt: skip


def _rank_r(file: str, metric: str, *, controlled: bool) -> float:
    table = pl.read_csv(DATA / file, infer_schema_length=None)
    x, y = (stats.rankdata(table[name].to_numpy()) for name in (metric, "final_acc"))
    columns = []
    for name in ("lr", "wd", "dropout", "optimizer", "arch", "task", "seed"):
        if table[name].dtype.is_numeric():
            columns.append(stats.rankdata(table[name].to_numpy())[:, None])
        else:
            columns.append(table[name].to_dummies().to_numpy().astype(float))
    given = np.hstack(columns) if controlled else np.zeros((len(x), 0))
    return float(partial_correlation(x, y, given).estimate or 0)


HEAD = """# Conformance: published values and ours

Each line is a value printed elsewhere and what flatscale gives for the same data. It is printed by
`python -m tests.stats.published_cases`; `tests/stats/test_published.py` holds every line to its
tolerance, and this page to the lines. Lines marked † need a public table that is not in the
repository (see the source).

"""


def page() -> str:
    """The page, for the cases whose tables are here."""
    lines = [
        "| data | quantity | published | ours | tolerance | source | note |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [line(case) for case in cases() if case.available]
    return HEAD + "\n".join(lines) + "\n"


def line(case: Case) -> str:
    """One line; ours to one digit beyond the tolerance, so that every machine prints it alike."""
    digits = 0 if case.tolerance == 0 else max(0, math.ceil(-math.log10(case.tolerance)))
    ours = f"{case.ours():.{digits}f}"
    cells = (
        f"{case.data}{' †' if case.file else ''}", case.quantity, f"{case.published:.7g}",
        f"{float(ours) + 0.0:.{digits}f}", f"{case.tolerance:g}", case.source, case.note,
    )  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(page())
