"""Values that earlier records of a network hold: measured once, taken over by later records.

A study to which a metric is added has new trials of the same networks. What was measured of the
same weights, on the same points, with the same options and code, is the same value; only what is
new is measured.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flatscale import __version__
from flatscale.errors import StoreError
from flatscale.measurement import Measurement
from flatscale.store.records import FINISHED
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EarlierRecords:
    """The finished records that a store has of one network, for a trial that measures it again."""

    root: str
    trial_ids: tuple[str, ...] = ()

    def take(
        self, value_ids: Mapping[str, str], weights_hash: str | None
    ) -> tuple[dict[str, Measurement], dict[str, Any]]:
        """The final values with these ids of the same weights, and which records they come from.

        A metric that could not be computed is not taken over: it is tried again.

        Args:
            value_ids: by metric, as `metrics.value_ids` gives them.
            weights_hash: of the network's weights.

        Returns:
            Measurements by metric; by the trial that measured them, metrics, versions and plugins.
        """
        store = _store(self.root)
        taken: dict[str, Measurement] = {}
        sources: dict[str, Any] = {}
        for trial_id in self.trial_ids if store.root.is_dir() else ():
            try:
                record = store.read_record(trial_id)
            except StoreError as error:
                logger.warning("%s; its values are measured again", error)
                continue
            if record["weights_hash"] != weights_hash:
                continue
            known, before = _decoded(record["value_ids"]), _decoded(record["taken_over"])
            for row in record["measurements"] or ():
                name = row["metric"]
                wanted = name in value_ids and known.get(name) == value_ids[name]
                if row["is_final"] and row["value"] is not None and wanted and name not in taken:
                    taken[name] = _measurement(row)
                    _note(sources, name, record, before)
        return taken, sources


def earlier_records(store: Store, specs: Iterable[TrialSpec]) -> dict[str, tuple[str, ...]]:
    """By trial, the finished records of the same network; none of trials that are the first."""
    of_network = defaultdict(list)
    for ending in store.endings():
        if ending["status"] == FINISHED:
            of_network[ending["network_id"]].append(ending["trial_id"])
    found = {spec.trial_id: of_network.get(spec.network_id, ()) for spec in specs}
    return {trial_id: tuple(ids) for trial_id, ids in found.items() if ids}


def ids_of_values(store: Store) -> dict[str, set[str]]:
    """By network, the ids of the values that its finished records hold."""
    results = store.read()
    found: dict[str, set[str]] = defaultdict(set)
    rows = results.trials.filter(status=FINISHED).select("network_id", "value_ids").iter_rows()
    for network_id, value_ids in rows:
        found[network_id] |= set(_decoded(value_ids).values())
    return found


@lru_cache(maxsize=1)
def _store(root: str) -> Store:
    """One for all trials of a process: of its checksums it reads what is new since the last."""
    return Store(root)


def _measurement(row: Mapping[str, Any]) -> Measurement:
    """A measurement as it was before it became a row of a record."""
    columns = ("value", "std_error", "converged", "num_evaluations", "num_points", "reason")
    return Measurement(
        name=row["metric"],
        **{column: row[column] for column in columns},
        layers={part["layer"]: part["value"] for part in row["layers"]},
        extras={part["name"]: tuple(part["values"]) for part in row["extras"]},
    )


def _note(
    sources: dict[str, Any], name: str, record: Mapping[str, Any], before: Mapping[str, Any]
) -> None:
    """Note which trial measured a value: that of the record, or the one that it took it from."""
    trial_id = next((t for t, s in before.items() if name in s["metrics"]), record["trial_id"])
    source = before.get(trial_id) or {
        "versions": f"flatscale {__version__}, {record['versions']}",
        "plugin_code": _decoded(record["plugin_code"]),
    }
    sources.setdefault(trial_id, {**source, "metrics": []})["metrics"].append(name)


def _decoded(content: str | None) -> dict[str, Any]:
    return {} if content is None else json.loads(content)
