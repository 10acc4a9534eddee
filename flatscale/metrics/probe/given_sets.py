"""What every pass needs of the observers it is given."""

from __future__ import annotations

from collections.abc import Mapping

from flatscale.errors import MetricError
from flatscale.metrics.probe.observers import Observer

_GIVE = {
    "probe": "measure() takes it as `data`",
    "train": "give measure() `train=(x, y)`",
    "test": "give measure() `test=(x, y)`",
}


def required(observers: Mapping[str, Observer], name: str) -> Observer:
    """The observer of that point set.

    Raises:
        MetricError: the set was not given.
    """
    if name not in observers:
        hint = _GIVE.get(name, "give it")
        raise MetricError(f"no {name} set was given; {hint}")
    return observers[name]
