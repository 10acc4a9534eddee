"""A network that a study kept, as it was when its training ended."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from flatscale.data import load_points
from flatscale.errors import StoreError
from flatscale.models import build_model
from flatscale.store.results import Store
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
    record = results.read_record(trial_id)
    wanted, network_id = study.measurement.weights, record["network_id"]
    path = results.weights_file(network_id if wanted == "last" else f"{network_id}-{wanted}")
    if not path.is_file():
        raise StoreError(
            f"{results.checkpoints} has no {path.name} of trial {trial_id}; weights are kept with "
            "keep_checkpoints: true"
        )
    import_plugins(study.plugins)
    shape = weights_facts(path).get("input_shape") or load_points(study).dataset.input_shape
    network = build_model(
        record["architecture"],
        tuple(shape),
        record["num_classes"],
        json.loads(record["options"]),
        seed=0,
    )
    load_weights(path, network)
    return network.eval()
