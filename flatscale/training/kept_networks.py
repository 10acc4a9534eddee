"""A network that a study kept, as it was when its training ended."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from flatscale.data import load_all_points, points_key
from flatscale.errors import StoreError
from flatscale.models import build_model
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.registry import import_plugins, nearest
from flatscale.training.checkpoint import load_weights, weights_facts


def load_network(store: str | Path, trial_id: str) -> nn.Module:
    """The trained network of a trial, in eval mode on the CPU.

    Args:
        store: the folder of a study that was run with `keep_checkpoints: true`.
        trial_id: of the trial, as `load_results(store).trials` has it.

    Raises:
        StoreError: no such store or trial, or the trial's weights were not kept or are damaged.
        ConfigError: a plugin of the study cannot be imported.
    """
    results = Store(store)
    study = results.read_study()
    known = results.marks()
    if trial_id not in known:
        raise StoreError(
            f"{results.root} has no trial {trial_id!r}{nearest(trial_id, known)}; it has "
            f"{len(known)}, which load_results(...).trials lists"
        )
    import_plugins(study.plugins)
    record = results.read_record(trial_id)
    # The trial itself says which data and weights are its own where the design varies these.
    spec = next((spec for spec in plan(study) if spec.trial_id == trial_id), None)
    wanted, network_id = study.measurement.weights, record["network_id"]
    known_id = network_id if wanted == "last" else f"{network_id}-{wanted}"
    path = results.weights_file(spec.weights_id if spec else known_id)
    if not path.is_file():
        raise StoreError(
            f"{results.checkpoints} has no {path.name} of trial {trial_id}; weights are kept with "
            "keep_checkpoints: true"
        )
    network = build_model(
        record["architecture"],
        _input_shape(path, spec),
        record["num_classes"],
        json.loads(record["options"]),
        seed=0,
    )
    load_weights(path, network)
    return network.eval()


def _input_shape(path: Path, spec: TrialSpec | None) -> tuple[int, ...]:
    """Of one input: as the weights say, else as the trial's own data have it."""
    shape = weights_facts(path).get("input_shape")
    if shape is not None:
        return tuple(shape)
    if spec is None:
        raise StoreError(
            f"{path} does not say what inputs its network takes, and its trial, whose data would, "
            "is no longer in the study. Run the study file that it came from"
        )
    return tuple(load_all_points([spec])[points_key(spec)].dataset.input_shape)
