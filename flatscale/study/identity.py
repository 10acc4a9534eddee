"""What names a trial, a network, a study for ever: the parts of it that enter the hash.

One rule for the whole schema. The keys of version 0.1 enter with any value. A key added later
enters only where it differs from its default, so that adding one with its default changes no id: it
must mean by its default what was done before it existed. Keys without a default always enter, and
so do the options and constants that are given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

# The keys of version 0.1 that have a default. Nothing is ever added here.
_OF_0_1 = {
    part: frozenset(keys.split())
    for part, keys in {
        "StudyConfig": "description seed plugins data training measurement resources analysis "
        "tracking keep_checkpoints",
        "DataConfig": "source path classes train_size test_size image_size download",
        "GridDesign": "kind num_seeds",
        "SobolDesign": "num_seeds",
        "ModelConfig": "family options design training",
        "OptimizerConfig": "name momentum weight_decay",
        "TrainingConfig": "optimizer loss stop_loss max_steps evaluate_every checkpoint_every",
        "MeasurementConfig": "metrics probe_size probe_split output_map loss num_snapshots options",
        "ResourcesConfig": "cpus_per_trial gpus_per_trial max_concurrent_trials probe_actors "
        "cpus_per_probe_actor gpus_per_probe_actor max_snapshots_in_flight max_retries",
        "AnalysisConfig": "primary log outcomes covariates num_resamples require_interpolation",
        "TrackingConfig": "uri experiment enabled",
    }.items()
}

# Where data and weights lie, what networks, families and levels are called, what others published
# of them and how often a checkpoint is written change no result, and checking bounds changes no
# metric asked for: they are in no trial's id.
_WITHOUT_RESULT = {
    "TrialSpec": frozenset({"family", "axes", "name", "outcomes"}),
    "WeightsConfig": frozenset({"location"}),
    "DataConfig": frozenset({"path", "download"}),
    "ShiftedConfig": frozenset({"path"}),
    "TrainingConfig": frozenset({"checkpoint_every"}),
    "MeasurementConfig": frozenset({"check_bounds"}),
}

# A study is what a profile makes of its file, whatever the profile is called; a table of another's
# is what it holds, wherever it lies.
_WITHOUT_MEANING = {
    "StudyConfig": frozenset({"profile"}),
    "TableStudy": frozenset({"profile"}),
    "TableConfig": frozenset({"path"}),
    "JoinedTable": frozenset({"path"}),
}


def identifying_content(part: BaseModel) -> dict[str, Any]:
    """Everything of a part of the schema that enters the study's hash, as JSON holds it."""
    return _content(part, part.model_dump(mode="json"), _WITHOUT_MEANING)


def result_content(part: BaseModel) -> dict[str, Any]:
    """Everything of a part of the schema that determines a result, as JSON holds it."""
    return _content(part, part.model_dump(mode="json"), _WITHOUT_RESULT)


def content_hash(content: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form, 16 hex digits."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _content(value: Any, dumped: Any, left_out: Mapping[str, frozenset[str]]) -> Any:
    if isinstance(value, BaseModel):
        without = left_out.get(type(value).__name__, frozenset())
        later = _defaults_of_later_keys(type(value))
        return {
            key: _content(item, dumped[key], left_out)
            for key, item in value
            if key not in without and not (key in later and item == later[key])
        }
    if isinstance(value, tuple):
        return [_content(*pair, left_out) for pair in zip(value, dumped, strict=True)]
    return dumped


@lru_cache
def _defaults_of_later_keys(part: type[BaseModel]) -> dict[str, Any]:
    """The keys of a part of the schema that came after 0.1 and have a default, with it."""
    return {
        key: field.get_default(call_default_factory=True)
        for key, field in part.model_fields.items()
        if not field.is_required() and key not in _OF_0_1.get(part.__name__, ())
    }
