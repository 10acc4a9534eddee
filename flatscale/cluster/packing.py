"""Which networks of a zoo run side by side: as many as the memory holds, large ones alone.

A trial asks Ray for the memory it is expected to take. Ray's own scheduler does the packing. The
expectation is an estimate until a network of the same architecture was measured. Where several
workers share the networks, those that will take longest are handed out first (Graham 1969), so that
none is left to one worker at the end.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from ray import tune

from flatscale.cluster.measured_trial import network_input, size_of
from flatscale.data import Points
from flatscale.errors import FlatscaleError
from flatscale.models.zoo import NetworkSize, memory_bytes
from flatscale.store.records import TrialRecord
from flatscale.study.plan import TrialSpec
from flatscale.study.resources import ResourcesConfig

logger = logging.getLogger(__name__)

_GIB = 2**30
_MARGIN = 1.1
_SHARES_OF_A_GPU = 8


class Packing:
    """What each trial of a study that only measures reserves; a listener of its run.

    Args:
        resources: CPUs and GPUs of a trial.
        points: the probe.
        node_bytes: memory that the largest node lends to trials; None where none says.
        gpu_bytes: memory of a GPU; None where there is none.
    """

    def __init__(
        self,
        resources: ResourcesConfig,
        points: Points,
        node_bytes: float | None,
        gpu_bytes: int | None = None,
    ) -> None:
        self._resources, self._points = resources, points
        self._node_bytes, self._gpu_bytes = node_bytes, gpu_bytes
        self._measured: dict[str, int] = {}
        # By architecture and input size: an architecture with several weights is counted once.
        self._sizes: dict[tuple[str, Any], NetworkSize | None] = {}

    def started(self, trial_id: str) -> None: ...

    def ended(self, record: TrialRecord) -> None:
        """Learn what a network took."""
        if record.peak_memory_bytes is not None:
            key = f"{record.architecture} {record.options}"
            self._measured[key] = max(self._measured.get(key, 0), record.peak_memory_bytes)

    def expected_bytes(self, spec: TrialSpec) -> int | None:
        """Of one trial; None where its network cannot be built, which its record will say."""
        key = _architecture(spec)
        if key in self._measured:
            return int(_MARGIN * self._measured[key])
        size = self._size(spec)
        if size is None:
            return None
        shape = network_input(spec, self._points)
        num_points = sum(len(labels) for _, labels in self._points.point_sets.values())
        return memory_bytes(size, num_points, shape)

    def longest_first(self, specs: Iterable[TrialSpec]) -> list[TrialSpec]:
        """By what the layers hand on, with which the time goes; what cannot be built comes last."""

        def activations(spec: TrialSpec) -> int:
            size = self._size(spec)
            return 0 if size is None else size.activation_bytes

        return sorted(specs, key=activations, reverse=True)

    def _size(self, spec: TrialSpec) -> NetworkSize | None:
        """How large its network is; None where it cannot be built."""
        prepared = spec.preprocessing
        key = (_architecture(spec), prepared.input_size if prepared else spec.data.image_size)
        if key not in self._sizes:
            try:
                size = size_of(spec, self._points)
            except FlatscaleError as error:
                logger.info("%s: %s", spec.name, error)
                size = None
            self._sizes[key] = size
        return self._sizes[key]

    def request(self, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Tune asks of Ray for a trial of this configuration."""
        expected = self.expected_bytes(TrialSpec.model_validate_json(config["spec"]))
        bundle = {"CPU": float(self._resources.cpus_per_trial)}
        gpus = self._resources.gpus_per_trial
        if gpus > 0:
            bundle["GPU"] = gpus
            if expected is not None and self._gpu_bytes and gpus <= 1:
                eighths = -(-expected * _SHARES_OF_A_GPU // self._gpu_bytes)
                bundle["GPU"] = min(1.0, eighths / _SHARES_OF_A_GPU)
        elif expected is not None and self._node_bytes:
            # Rounded up, so that a worker can be used again for a network of nearly that size.
            bundle["memory"] = min(rounded_up(expected), int(0.95 * self._node_bytes))
        return tune.PlacementGroupFactory([bundle])


def rounded_up(num_bytes: float) -> int:
    """The next of 1, 1.5, 2, 3, 4, 6, 8, 12, ... GiB."""
    level = _GIB
    while True:
        for step in (level, level * 3 // 2):
            if num_bytes <= step:
                return step
        level *= 2


def node_memory(nodes: Iterable[dict[str, Any]]) -> float | None:
    """Memory that the largest living node lends to trials, if any says."""
    known = [n["Resources"].get("memory") for n in nodes if n["Alive"]]
    return max((m for m in known if m), default=None)


def _architecture(spec: TrialSpec) -> str:
    """Also said of its record by `ended`."""
    return f"{spec.architecture} {json.dumps(dict(spec.options), sort_keys=True)}"
