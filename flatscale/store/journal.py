"""Which records a tracking server has: a mark on disk for each one it took."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from flatscale.store.atomic import write_atomically
from flatscale.store.results import Store


class Deliveries:
    """The marks of one tracking server's deliveries, in the store's `tracking` folder.

    Args:
        store: the study's store.
        uri: the tracking URI; only a hash of it is written down.
    """

    def __init__(self, store: Store, uri: str) -> None:
        self._store = store
        self.folder = store.root / "tracking" / hashlib.sha256(uri.encode()).hexdigest()[:16]

    def waiting(self) -> Iterator[tuple[str, str]]:
        """(trial id, mark) of every record not delivered as it is now, oldest first."""
        return _waiting(self._store, self.folder)

    def mark(self, trial_id: str, mark: str) -> None:
        """Note that a record was delivered."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / trial_id, mark.encode())


def num_waiting(store: Store) -> int:
    """Records that the tracking server used last has not taken yet; 0 where none was used."""
    folders = [p for p in (store.root / "tracking").glob("*") if p.is_dir()]
    if not folders:
        return 0
    latest = max(folders, key=lambda p: p.stat().st_mtime_ns)
    return sum(1 for _ in _waiting(store, latest))


def _waiting(store: Store, folder: Path) -> Iterator[tuple[str, str]]:
    records = [(path, path.stat()) for path in store.record_paths()]
    for path, stat in sorted(records, key=lambda record: record[1].st_mtime_ns):
        mark = f"{stat.st_mtime_ns}-{stat.st_size}"
        delivered = folder / path.stem
        if not delivered.is_file() or delivered.read_text() != mark:
            yield path.stem, mark
