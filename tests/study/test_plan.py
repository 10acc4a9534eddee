"""Trial ids are content hashes: what changes a result changes the id, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from flatscale.errors import ConfigError
from flatscale.study.axes import LogRange, SobolDesign
from flatscale.study.plan import design_points, plan
from flatscale.study.reading import parse_config
from flatscale.study.seeds import derive_seed

STUDY: dict[str, Any] = {
    "name": "study",
    "models": [{"architecture": "mlp"}, {"architecture": "lenet"}],
    "design": {
        "kind": "grid",
        "learning_rate": [0.1, 0.2],
        "batch_size": [16, 32],
        "num_seeds": 3,
    },
}


def ids(**parts: Any) -> list[str]:
    return [spec.trial_id for spec in plan(parse_config({**STUDY, **parts}))]


def test_a_grid_is_every_combination_once() -> None:
    specs = plan(parse_config(STUDY))
    assert len({s.trial_id for s in specs}) == len(specs) == 2 * 2 * 2 * 3
    cells = {(s.architecture, s.learning_rate, s.batch_size, s.seed_index) for s in specs}
    assert len(cells) == 24
    # Seeds outermost: a study stopped early is balanced over everything else.
    assert [s.seed_index for s in specs] == [0] * 8 + [1] * 8 + [2] * 8


def test_ids_are_the_same_in_another_process() -> None:
    code = (
        "from flatscale.study.plan import plan; from flatscale.study.reading import parse_config;"
        f"print(*[s.trial_id for s in plan(parse_config({STUDY!r}))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ids()


def test_ids_are_stable_between_releases() -> None:
    # A change here orphans every store in the world: it needs a reason and a release note.
    assert ids()[0] == "51cd3936566efdf2"


@pytest.mark.parametrize(
    "part",
    [
        {"seed": 1},
        {"data": {"train_size": 100}},
        {"training": {"stop_loss": 0.02}},
        {"training": {"optimizer": {"momentum": 0.5}}},
        {"measurement": {"probe_size": 50}},
        {"measurement": {"metrics": ["mls", "sharpness"]}},
    ],
)
def test_what_changes_a_result_changes_every_id(part: dict[str, Any]) -> None:
    assert not set(ids()) & set(ids(**part))


@pytest.mark.parametrize(
    "part",
    [
        {"name": "other"},
        {"description": "words"},
        {"data": {"path": "elsewhere"}},
        {"data": {"download": True}},
        {"resources": {"probe_actors": 5}},
        {"analysis": {"log": ["mls"]}},
        {"tracking": {"enabled": False}},
        {"keep_checkpoints": True},
        {"training": {"checkpoint_every": 10}},
        {"measurement": {"check_bounds": False}},
        {"models": [{"architecture": "mlp", "family": "a"}, {"architecture": "lenet"}]},
    ],
)
def test_what_changes_no_result_changes_no_id(part: dict[str, Any]) -> None:
    assert ids() == ids(**part)


def test_the_order_of_metrics_changes_no_id() -> None:
    one, two = ["mls", "sharpness"], ["sharpness", "mls"]
    assert ids(measurement={"metrics": one}) == ids(measurement={"metrics": two})


def test_measuring_more_keeps_the_network() -> None:
    before = plan(parse_config(STUDY))
    after = plan(parse_config({**STUDY, "measurement": {"metrics": ["mls", "sharpness"]}}))
    assert [s.network_id for s in before] == [s.network_id for s in after]
    assert [s.seed("order") for s in before] == [s.seed("order") for s in after]


def test_a_study_that_grows_keeps_its_trials() -> None:
    more_seeds = {**STUDY["design"], "num_seeds": 5}
    assert set(ids()) < set(ids(design=more_seeds))
    assert set(ids()) < set(ids(models=[*STUDY["models"], {"architecture": "vgg11"}]))


def test_a_longer_sobol_design_contains_the_shorter() -> None:
    def points(n: int) -> list[tuple[float, int]]:
        design = SobolDesign(
            kind="sobol",
            learning_rate=LogRange(low=0.01, high=1),
            batch_size=LogRange(low=8, high=128),
            num_points=n,
        )
        return design_points(design, seed=0)

    assert points(5) == points(33)[:5]
    rates, sizes = np.array(points(64)).T
    assert rates.min() >= 0.01
    assert rates.max() <= 1
    assert sizes.min() >= 8
    assert sizes.max() <= 128
    # Evenly spread in the logarithm: a quarter of 64 points in each quarter of the range.
    quarters = np.histogram(np.log10(rates), bins=np.linspace(-2, 0, 5))[0]
    assert quarters.tolist() == [16, 16, 16, 16]


def test_a_model_may_bring_its_own_design_and_training() -> None:
    own = {
        "architecture": "lenet",
        "design": {"kind": "grid", "learning_rate": [1.0], "batch_size": [4]},
        "training": {"max_steps": 7},
    }
    specs = plan(parse_config({**STUDY, "models": [{"architecture": "mlp"}, own]}))
    mine = [s for s in specs if s.architecture == "lenet"]
    assert [(s.learning_rate, s.batch_size, s.training.max_steps) for s in mine] == [(1.0, 4, 7)]
    assert sum(s.architecture == "mlp" for s in specs) == 12


def test_the_same_trial_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="same trial"):
        ids(models=[{"architecture": "mlp"}, {"architecture": "mlp", "family": "again"}])


def test_seeds_depend_on_every_word() -> None:
    seeds = {derive_seed(0), derive_seed(1), derive_seed(0, "a"), derive_seed(0, "a", 1)}
    seeds |= {derive_seed(0, "a1"), derive_seed(0, "a", "b"), derive_seed(0, "ab")}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", "1")
