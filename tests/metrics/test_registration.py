"""Options of metrics reach their passes; a pass runs once for each value of its options."""

from __future__ import annotations

import pytest

from flatscale.errors import ConfigError
from flatscale.measurement import Measurement
from flatscale.metrics import (
    default_metrics,
    measure,
    measurement_pass,
    metric,
    metric_catalog,
    metric_info,
    with_inequalities,
)
from flatscale.metrics.registration import METRICS, PASSES, options_of, resolve_options
from flatscale.study.schema import MeasurementConfig
from tests.oracles.networks import case


@pytest.fixture
def counted():
    """Two metrics of one pass, which counts how often it runs."""
    runs = []

    @measurement_pass("counted_pass")
    def counted_pass(observers, seed, *, size: int = 2, depth: int = 1):
        runs.append((size, depth))
        return size

    @metric("plain_size", passes=("counted_pass",), formula="s", group="outcome")
    def plain_size(size):
        """Size."""
        return Measurement(name="plain_size", value=float(size))

    @metric("preset_size", passes=("counted_pass",), formula="s", group="outcome")
    def preset_size(found, *, size: int = 5):
        """Size, with a default of its own."""
        assert found == size
        return Measurement(name="preset_size", value=float(found))

    yield runs
    for name in ("plain_size", "preset_size"):
        del METRICS._entries[name]
    del PASSES._entries["counted_pass"]


@pytest.mark.parametrize(
    ("options", "plain", "preset", "num_runs"),
    [
        ({}, 2, 5, 2),
        ({"counted_pass": {"size": 3}}, 3, 3, 1),
        ({"preset_size": {"size": 2}}, 2, 2, 1),
        ({"plain_size": {"size": 7}}, 7, 5, 2),
        ({"counted_pass": {"size": 3}, "plain_size": {"size": 7}}, 7, 3, 2),
        ({"plain_size": {"depth": 2}, "preset_size": {"size": 2}}, 2, 2, 2),
    ],
)
def test_a_pass_runs_once_for_each_value_of_its_options(counted, options, plain, preset, num_runs):
    model, x, y = case("mlp")
    report = measure(model, (x, y), ["plain_size", "preset_size"], options=options)
    assert (report["plain_size"].value, report["preset_size"].value) == (plain, preset)
    assert len(counted) == num_runs


def test_an_option_of_metric_and_pass_reaches_both():
    own, looks = options_of(
        metric_info("pac_bayes_bound"), resolve_options({"pac_bayes_bound": {"rho": 0.2}})
    )
    assert own["rho"] == looks["ball_ascent"]["rho"] == 0.2
    assert "delta" in own
    assert "delta" not in looks["ball_ascent"]


def test_every_fault_of_a_metrics_options_is_in_one_message():
    with pytest.raises(ConfigError) as caught:
        resolve_options({"worst_case_sharpness": {"rho": 0, "num_stps": 3, "adaptive": "yes"}})
    for part in ("options.worst_case_sharpness", "'rho'", "'num_steps'", "'adaptive'"):
        assert part in str(caught.value)


def test_an_option_without_a_default_is_refused():
    with pytest.raises(ConfigError, match=r"option 'size' of .*needs_size must have a default"):

        @measurement_pass("needs_size")
        def needs_size(observers, seed, *, size: int):
            return size


def test_one_default_set_for_studies_and_the_list_of_metrics():
    marked = {info.name for info in metric_catalog() if info.default}
    study = MeasurementConfig()
    assert study.check_bounds
    assert marked == set(with_inequalities(study.metrics)[0])
    assert {"bound_a", "bound_d", "nmls_bound", "lvr_bound", "nvr_bound"} <= marked
    assert "pac_bayes_bound" not in marked
    assert set(default_metrics(("probe", "train", "test"))) == marked
    assert set(default_metrics(("probe",))) < marked


def test_an_inequality_is_checked_with_the_options_of_what_it_bounds():
    asked = {"log_lvr": {"volume_rank": 3}, "mls": {"tolerance": 1e-2}}
    names, options = with_inequalities(["log_lvr", "mls"], asked)
    assert names == ["log_lvr", "mls", "bound_a", "bound_b", "bound_c", "bound_d", "lvr_bound"]
    chain = {f"bound_{k}": {"tolerance": 1e-2} for k in "abcd"}
    assert options == {**asked, **chain, "lvr_bound": {"volume_rank": 3}}
    own = {"lvr_bound": {"volume_rank": 2}}
    assert with_inequalities(["log_lvr"], {**asked, **own})[1] == {**asked, **own}
