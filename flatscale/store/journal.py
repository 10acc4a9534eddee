"""Which records a tracking server has: a journal, one line for each record that it took.

A line is a trial's id and the mark of its record (`Store.marks`), on the disk before the next
record is delivered. A record written again has another mark, so it waits again. A line that a
killed driver left half-written names no record as it is now: that one is delivered again.
"""

from __future__ import annotations

import os
from pathlib import Path

from flatscale.store.atomic import append_line, is_leftover, write_atomically
from flatscale.store.results import Store


class Journal:
    """What one tracking server took of a store's records.

    Args:
        store: the study's store.
        uri: the tracking URI.
    """

    def __init__(self, store: Store, uri: str) -> None:
        self._store = store
        self._marks = store.delivery_marks(uri)
        self._is_open = False
        self.path = store.delivery_journal(uri)

    def open(self) -> None:
        """Make the journal, or note that its server is used again, for `num_waiting`.

        Raises:
            OSError: the store cannot be written.
        """
        if self._is_open:
            return
        if self.path.exists():
            os.utime(self.path)
        else:
            self.path.parent.mkdir(exist_ok=True)
            # An older store has a file for each delivery; they are carried over once.
            lines = (f"{trial_id} {mark}\n" for trial_id, mark in _delivered(self._marks).items())
            write_atomically(self.path, "".join(lines).encode())
        self._is_open = True

    def waiting(self) -> list[str]:
        """The trials whose records were not delivered as they are now, oldest first."""
        return _waiting(self._store, self.path if self.path.exists() else self._marks)

    def add(self, trial_id: str, mark: str) -> None:
        """Note that a record was delivered.

        Raises:
            OSError: the disk is full or the store cannot be written.
        """
        append_line(self.path, f"{trial_id} {mark}")


def num_waiting(store: Store) -> int:
    """Records that the tracking server used last has not taken yet; 0 where none was used."""
    used = [path for path in store.deliveries.glob("*") if not is_leftover(path)]
    # Where there are journals, what older versions left beside them is carried over already.
    last = max(used, key=lambda p: (p.is_file(), p.stat().st_mtime_ns), default=None)
    return 0 if last is None else len(_waiting(store, last))


def _waiting(store: Store, deliveries: Path) -> list[str]:
    delivered = _delivered(deliveries)
    return [trial_id for trial_id, mark in store.marks().items() if delivered.get(trial_id) != mark]


def _delivered(path: Path) -> dict[str, str]:
    """Mark by trial id, from a journal or from a folder with a file a delivery."""
    if path.is_dir():
        return {p.name: p.read_text() for p in path.iterdir() if not is_leftover(p)}
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    return {trial_id: mark for trial_id, _, mark in (line.partition(" ") for line in lines)}
