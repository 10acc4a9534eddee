"""`analyze()` shows what it is at where somebody looks, and computes the same."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from flatscale.stats import analyze
from flatscale.stats.pair import _STEPS, depth_findings
from flatscale.stats.sample import select_pair


def table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x, lr = rng.standard_normal((2, 24))
    family = [f"f{k % 6}" for k in range(24)]
    y = x + rng.standard_normal(24)
    return pl.DataFrame({"family": family, "x": x, "y": y, "lr": lr})


def test_a_bar_where_somebody_looks_and_nothing_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = analyze(table(), "x", "y", covariates=["lr"], num_resamples=99)
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the stream for a terminal
    shown = analyze(table(), "x", "y", covariates=["lr"], num_resamples=99, progress=True)
    assert f"/{len(_STEPS)}" in capsys.readouterr().err
    assert shown.equals(quiet)


def test_every_step_is_said_before_it_begins() -> None:
    told: list[str] = []
    sample = select_pair(table(), "x", "y", family="family")
    depth_findings(sample, table(), num_resamples=99, begins=told.append)
    assert told == list(_STEPS[1:-1])
