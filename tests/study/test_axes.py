"""Any key is an axis: the general design, its levels, labels and faults."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flatscale.errors import ConfigError
from flatscale.study.keys import resolve_name, short_names
from flatscale.study.levels import label_of
from flatscale.study.plan import TrialSpec, axis_columns, plan
from flatscale.study.reading import load_config, parse_config

RATE, BATCH = "training.learning_rate", "training.batch_size"
BASE: dict[str, Any] = {
    "name": "study",
    "models": [{"architecture": "mlp", "options": {"width": 100}}, {"architecture": "lenet"}],
}


def trials(design: dict[str, Any], **parts: Any) -> list[TrialSpec]:
    return plan(parse_config({**BASE, "design": design, **parts}))


def faults(design: dict[str, Any], **parts: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        trials(design, **parts)
    return [line.strip() for line in str(caught.value).splitlines()]


SHORT_GRID = {"kind": "grid", "learning_rate": [0.1, 0.2], "batch_size": [16, 32], "num_seeds": 2}
LONG_GRID = {"axes": {RATE: ["1e-1", 0.2], BATCH: [16, 32]}, "num_seeds": 2}
SHORT_SOBOL = {
    "kind": "sobol",
    "learning_rate": {"low": 0.01, "high": 1},
    "batch_size": {"low": 8, "high": 128},
    "num_points": 21,
}
LONG_SOBOL = {
    "kind": "sobol",
    "axes": {
        RATE: {"low": 0.01, "high": 1, "scale": "log"},
        BATCH: {"low": 8, "high": 128, "scale": "log", "integer": True},
    },
    "num_points": 21,
}
ROWS = [{RATE: r, BATCH: b} for r in (0.1, 0.2) for b in (16, 32)]
MIXED = [dict(reversed(row.items())) for row in ROWS]


@pytest.mark.parametrize(
    ("short", "long"),
    [
        (SHORT_GRID, LONG_GRID),
        (SHORT_SOBOL, LONG_SOBOL),
        (SHORT_GRID, {"kind": "list", "points": ROWS, "num_seeds": 2}),
        (SHORT_GRID, {"kind": "list", "points": [ROWS[0], *MIXED[1:]], "num_seeds": 2}),
    ],
)
def test_the_short_form_and_the_long_one_give_the_same_trials(
    short: dict[str, Any], long: dict[str, Any]
) -> None:
    one, other = trials(short), trials(long)
    assert [s.trial_id for s in one] == [s.trial_id for s in other]
    assert [s.network_id for s in one] == [s.network_id for s in other]
    assert [s.axes for s in one] == [s.axes for s in other]


def test_what_is_set_or_varied_gives_one_id_wherever_it_is_written() -> None:
    training = {"learning_rate": 0.1, "max_steps": 9, "optimizer": {"momentum": 0.9}}
    optimizers = [{"name": "sgd", "momentum": 0.9}, "sgd"]
    fixed = trials({"axes": {BATCH: [16]}}, training=training)
    varied = trials({"axes": {BATCH: [16], RATE: [0.1], "training.optimizer": optimizers}},
                    training={"max_steps": 9})  # fmt: skip
    written = trials({"axes": {"training": [{"learning_rate": 0.1, "batch_size": 16}]}},
                     training={**training, "learning_rate": 9})  # fmt: skip
    ids = [spec.trial_id for spec in fixed]
    assert ids == [s.trial_id for s in varied if s.axes["training.optimizer"] != "sgd"]
    assert ids == [s.trial_id for s in written]


def test_an_axis_writes_into_the_document_of_its_trial() -> None:
    design = {
        "axes": {
            RATE: [0.1],
            BATCH: ["full", 8],
            "training.optimizer": ["sgd", {"name": "sgd", "momentum": 0.9}],
            "training.optimizer.weight_decay": [0, 0.01],
            "model.options.width": [5, 9],
            "data.train_size": [None, 100],
            "measurement": [{"label": "small", "probe_size": 7}],
        }
    }
    found = trials(design, models=BASE["models"][:1])
    assert len({spec.trial_id for spec in found}) == len(found) == 2**5
    for spec in found:
        axes, optimizer = spec.axes, spec.training.optimizer
        assert spec.options == {"width": axes["model.options.width"]}
        assert str(spec.data.train_size).lower() == str(axes["data.train_size"])
        assert optimizer.weight_decay == axes["training.optimizer.weight_decay"]
        assert optimizer.momentum == (0.9 if "momentum" in axes["training.optimizer"] else 0)
        assert spec.batch_size == axes["batch_size"]
        assert (spec.measurement.probe_size, axes["measurement"]) == (7, "small")
        again = TrialSpec.model_validate_json(spec.model_dump_json())
        assert (again.trial_id, again.axes) == (spec.trial_id, spec.axes)
    full = next(spec for spec in found if spec.batch_size == "full")
    assert (full.num_points_a_step(77), found[-1].num_points_a_step(5)) == (77, 5)


@pytest.mark.parametrize(
    ("level", "label"),
    [
        ({"name": "sgd", "momentum": 0.9}, "sgd momentum=0.9"),
        ({"rho": 0.05, "name": "sam", "base": {"name": "adam"}}, "sam rho=0.05 base.name=adam"),
        ({"label": "SGD m=0.9", "name": "sgd", "momentum": 0.9}, "SGD m=0.9"),
        ({"source": "digits", "classes": [3, 5]}, "digits classes=3,5"),
        ({}, "(default)"),
        (None, "none"),
        (True, "true"),
        (0.5, 0.5),
        ([1, "a"], "1,a"),
    ],
)
def test_a_level_is_called_by_its_label_or_its_values(level: Any, label: Any) -> None:
    assert label_of(level) == label


def test_ids_do_not_hold_labels() -> None:
    plain = {"axes": {RATE: [0.1], BATCH: [4], "training.optimizer": [{"momentum": 0.5}]}}
    called = {"axes": {**plain["axes"], "training.optimizer": [{"label": "m", "momentum": 0.5}]}}
    assert [s.trial_id for s in trials(plain)] == [s.trial_id for s in trials(called)]
    value = {"label": "wide", "value": 200}
    named = trials({"axes": {RATE: [0.1], BATCH: [4], "model.options.width": [value]}})
    assert [(s.options["width"], s.axes["model.options.width"]) for s in named] == [
        (200, "wide")
    ] * 2


def test_exclude_drops_the_combinations_that_have_all_its_levels() -> None:
    rates, sizes, optimizers = [0.1, 0.2], [8, 16], ["sgd", {"name": "sgd", "momentum": 0.9}]
    axes = {RATE: rates, BATCH: sizes, "training.optimizer": optimizers}
    exclude = [
        {RATE: 0.2, BATCH: 16},
        {"training.optimizer": "sgd momentum=0.9", BATCH: 8},
        {"training.optimizer": {"momentum": 0.9, "name": "sgd"}, RATE: 0.1},
    ]
    found = trials({"axes": axes, "exclude": exclude}, models=BASE["models"][:1])
    kept = [
        (r, b, m)
        for r, b, m in itertools.product(rates, sizes, (0, 0.9))
        if not (r == 0.2 and b == 16) and not (m and b == 8) and not (m and r == 0.1)
    ]
    got = [(s.learning_rate, s.batch_size, s.training.optimizer.momentum) for s in found]
    assert got == kept


@pytest.mark.parametrize("kind", ["sobol", "random"])
def test_sampled_designs_mix_ranges_and_levels_and_grow(kind: str) -> None:
    axes = {
        RATE: {"low": 1e-3, "high": 1, "scale": "log"},
        BATCH: [8, 16, "full"],
        "model.options.width": {"low": 10, "high": 20, "integer": True},
        "training.optimizer.momentum": {"low": 0.0, "high": 0.8},
    }
    design = {"kind": kind, "axes": axes, "num_points": 256}
    found = trials(design, models=BASE["models"][:1])
    shorter = trials({**design, "num_points": 40}, models=BASE["models"][:1])
    assert [s.trial_id for s in shorter] == [s.trial_id for s in found[:40]]
    widths = [s.options["width"] for s in found]
    assert set(widths) == set(range(10, 21))
    counts = [sum(s.batch_size == size for s in found) for size in (8, 16, "full")]
    assert min(counts) > 60
    logs = np.log10([s.learning_rate for s in found])
    momenta = np.array([s.training.optimizer.momentum for s in found])
    assert (logs.min() >= -3, logs.max() <= 0) == (True, True)
    # Means of uniform draws on [-3, 0] and [0, 0.8]: within four standard errors.
    assert abs(logs.mean() + 1.5) < 4 * 3 / np.sqrt(12 * 256)
    assert abs(momenta.mean() - 0.4) < 4 * 0.8 / np.sqrt(12 * 256)


def test_rows_of_a_table_are_a_design_that_the_store_keeps(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(f"{RATE},{BATCH},data.train_size,training.optimizer\n0.1,full,,sgd\n1e-2,8,50,"
                    '"{name: sgd, momentum: 0.5}"\n')  # fmt: skip
    config = parse_config({**BASE, "design": {"kind": "list", "points": str(path)}})
    path.unlink()
    found = plan(config)[:2]
    assert [(s.learning_rate, s.batch_size, s.data.train_size) for s in found] == [
        (0.1, "full", None),
        (0.01, 8, 50),
    ]
    assert found[1].training.optimizer.momentum == 0.5
    again = parse_config(config.shown())
    assert [s.axes for s in plan(again)] == [s.axes for s in plan(config)]
    assert again.content_hash == config.content_hash


def test_a_network_that_has_an_axis_of_another_by_default_is_at_its_own_value() -> None:
    own = {"axes": {RATE: [0.1], BATCH: [8], "training.optimizer.momentum": [0.5, 0.9]}}
    models = [{"architecture": "mlp", "design": own}, {"architecture": "lenet"}]
    found = trials({"axes": {RATE: [0.3], BATCH: [4]}}, models=models)
    assert [s.axes["training.optimizer.momentum"] for s in found] == [0.5, 0.9, 0.0]


def test_every_fault_of_a_design_is_named_with_its_place(tmp_path: Path) -> None:
    design = {
        "kind": "grid",
        "axes": {
            "training.lerning_rate": [0.1],
            "model.options.width": [],
            "training.max_steps": [10, "many", 2.5],
            "training.optimizer": [{"name": "sgd", "momentum": 3}, 7],
            "data": [{"sorce": "digits"}],
            "data.path": ["a", "b"],
            "training.loss": ["cross_entropy", "cross_entropy"],
            "training.batch_size": ["ful", 0],
            "training.stop_loss": "0.1",
            "dta.classes": [[0, 1]],
        },
        "num_seed": 3,
    }
    said = "\n".join(faults(design))
    for words in (
        "design.axes.training.lerning_rate: is no key of data, model, training, measurement (did",
        "you mean 'training.learning_rate'?)",
        "design.axes.model.options.width: must be a list of levels, or a range with low and high",
        "design.axes.training.max_steps[1]: input should be a valid integer",
        "found 'many'",
        "design.axes.training.max_steps[2]: input should be a valid integer",
        "design.axes.training.optimizer[0].momentum: input should be less than 1; found 3",
        "design.axes.training.optimizer[1]: ",
        "design.axes.data[0].sorce: unknown key (did you mean 'source'?)",
        "design.axes.data.path: can be no axis: it is in no trial's id",
        "design.axes.training.loss[1]: is a level twice",
        "design.axes.training.batch_size[0]: input should be 'full'; found 'ful'",
        "design.axes.training.batch_size[1]: input should be greater than or equal to 1; found 0",
        "design.axes.training.stop_loss: must be a list of levels, or a range with low and high",
        "design.axes.dta.classes: is no key of",
        "design.num_seed: unknown key (did you mean 'num_seeds'?)",
    ):
        assert words in said, said


@pytest.mark.parametrize(
    ("design", "words"),
    [
        ({"axes": {RATE: {"low": 1, "high": 2}, BATCH: [8]}}, "a grid needs levels, not a range"),
        ({"kind": "random", "axes": {RATE: [0.1], BATCH: [8]}}, "'random' needs num_points"),
        ({"kind": "list", "axes": {RATE: [0.1]}}, "'list' takes no axes"),
        ({"axes": {RATE: [0.1], BATCH: [8]}, "num_points": 3}, "'grid' takes no num_points"),
        (
            {"kind": "random", "num_points": 9, "axes": {RATE: {"low": 0, "high": 2,
             "scale": "log"}, BATCH: [8]}},
            "low (0) must be greater than 0 on a log scale",
        ),
        (
            {"kind": "random", "num_points": 9, "axes": {RATE: [0.1],
             BATCH: {"low": 2, "high": 9}}},
            "design.axes.training.batch_size: input should be a valid integer",
        ),
        (
            {"axes": {RATE: [0.1], BATCH: [8, 16]}, "exclude": [{BATCH: 9}]},
            "design.exclude[0].training.batch_size: is no level; these are: 8, 16; found 9",
        ),
        (
            {"axes": {RATE: [0.1], BATCH: [8]}, "exclude": [{"training.batchsize": 8}]},
            "is no axis with levels (did you mean 'training.batch_size'?)",
        ),
        ({"axes": {RATE: [0.1]}}, "models[0]: no batch_size is given; make training.batch_size"),
        ({"kind": "list", "points": [{RATE: 1, BATCH: 8}, {RATE: 1}]}, "not in all: training.b"),
        ({"kind": "list", "points": "absent.csv"}, "design.points: cannot be read as a table"),
        (
            {"axes": {RATE: [i / 1000 for i in range(1, 401)], BATCH: list(range(1, 252))}},
            "100,400 combinations with 1 seeds are 100,400 trials, more than max_trials (100,000)",
        ),
        ({**SHORT_SOBOL, "num_points": 65_536, "num_seeds": 2}, "131,072 trials, more than"),
        (
            {"axes": {RATE: [0.1], BATCH: [8], "training.optimizer": ["sgd", {"momentum": 0.0}]}},
            "two combinations of the design describe the same trial",
        ),
    ],
)  # fmt: skip
def test_a_design_that_makes_no_sense_is_one_message(design: dict[str, Any], words: str) -> None:
    assert words in "\n".join(faults(design))


def test_a_large_design_may_be_asked_for() -> None:
    axes = {RATE: [i / 1000 for i in range(1, 401)], BATCH: list(range(1, 252))}
    config = parse_config({**BASE, "design": {"axes": axes, "max_trials": 200_000}})
    assert config.design.num_combinations == 100_400  # type: ignore[union-attr]


def test_an_axis_can_be_overridden_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "name: s\nmodels: [{architecture: mlp}]\n"
        f"design: {{axes: {{{RATE}: [0.1], {BATCH}: [8]}}}}\n"
    )
    config = load_config(path, (f"design.axes.{RATE}=[0.3, 0.4]",))
    assert [s.learning_rate for s in plan(config)] == [0.3, 0.4]
    assert axis_columns(config) == ("learning_rate", "batch_size")


def test_an_axis_is_known_by_the_shortest_ending_that_is_its_own() -> None:
    keys = ("training.loss", "measurement.loss", "model.options.width", "training.optimizer")
    assert short_names(keys, taken=("width",)) == {
        "training.loss": "training.loss",
        "measurement.loss": "measurement.loss",
        "model.options.width": "options.width",
        "training.optimizer": "optimizer",
    }
    assert resolve_name("width", keys) == "model.options.width"
    assert resolve_name("training.loss", keys) == "training.loss"
    assert (resolve_name("loss", keys), resolve_name("los", keys)) == (None, None)
