"""What MLflow shows of a run beside its numbers: who ran it, from what, with which settings."""

from __future__ import annotations

import getpass
import json
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from flatscale import __version__
from flatscale.store.results import Store
from flatscale.study.schema import StudyConfig

_LONGEST = 5_000
"""Characters that MLflow takes of a value."""
_HEADLINE = ("estimate", "conf_low", "conf_high", "p_value", "num_trials")


@lru_cache
def origin() -> dict[str, str]:
    """MLflow's own tags for the user, the program, and the commit of the folder it is run in."""
    tags = {"mlflow.source.name": f"flatscale {__version__}", "mlflow.source.type": "LOCAL"}
    with suppress(KeyError, OSError):  # a user without a name, as in some containers
        tags["mlflow.user"] = getpass.getuser()
    with suppress(OSError, subprocess.SubprocessError):  # no git, or no repository
        command = ["git", "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
        tags["mlflow.source.git.commit"] = done.stdout.strip()
    return tags


def settings(config: StudyConfig) -> dict[str, str]:
    """Every setting of a study by its dotted key."""
    return {key: str(value)[:_LONGEST] for key, value in _flat("", config.shown())}


def headline(store: Store) -> tuple[str, dict[str, float]]:
    """The report's sentence about the primary pair, and its numbers; empty without a report."""
    path = store.report / "findings.json"
    if not path.is_file():
        return "", {}
    findings = json.loads(path.read_text(encoding="utf-8"))
    x, y = findings["primary"]
    found = next((s for s in findings["summary"] if s.startswith("Found: ")), "")
    pair = {"x": x, "y": y, "scope": "pooled"}
    rows = findings["tables"].get("findings", ())
    of_pair = {row["method"]: row for row in rows if {k: row.get(k) for k in pair} == pair}
    # As in the report: where units are independent and not networks, the interval over them.
    row = of_pair.get("pearson_jackknife") or of_pair.get("pearson") or {}
    numbers = {f"primary/{name}": row[name] for name in _HEADLINE if row.get(name) is not None}
    return found.removeprefix("Found: "), numbers


def described(record: dict[str, Any]) -> str:
    """A trial in a sentence."""
    network = f"{record['architecture']} {record['options']} on {record['dataset']}"
    if record["weights_tag"] is not None:
        return f"{record['model']}: {network}, with the weights {record['weights_tag']}"
    return (
        f"{network}: {record['optimizer']} with learning rate {record['learning_rate']:.3g} and "
        f"batches of {record['batch_size']}, seed {record['seed_index']}"
    )


def run_name(record: dict[str, Any]) -> str:
    """What a trial's run is called."""
    if record["model"] is not None:
        return f"{record['model']} {record['trial_id'][:6]}"
    return (
        f"{record['family']} lr={record['learning_rate']:.3g} batch={record['batch_size']} "
        f"seed={record['seed_index']} {record['trial_id'][:6]}"
    )


def _flat(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(f"{key}.{name}" if key else name, item)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from _flat(f"{key}.{number}", item)
    else:
        yield key, value
