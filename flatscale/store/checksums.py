"""Checksums of a store's records: bytes that changed on the disk never reach a parser.

One text file in the format of `sha256sum`, a line a record, only ever appended to. A record's line
is on the disk before the record is, so a driver killed in between leaves a line that nothing
matches yet; a record written again has several, and is whole if it matches one of them.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from pathlib import Path

from flatscale.store.atomic import append_line


class Checksums:
    """The checksums of the files of one folder tree.

    Args:
        path: the text file; missing counts as empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sums: dict[str, set[str]] = defaultdict(set)
        self._num_read = 0

    def add(self, file: Path, content: bytes) -> None:
        """Note what a file is about to hold.

        Raises:
            OSError: the disk is full or the text file cannot be written.
        """
        append_line(self._path, f"{_sum(content)}  {self._name(file)}")

    def damaged(self, files: list[Path]) -> list[Path]:
        """The files that hold something else than was written; one never noted is not judged."""
        known = self._known()
        return [
            file
            for file in files
            if (sums := known.get(self._name(file))) and _sum(file.read_bytes()) not in sums
        ]

    def _known(self) -> dict[str, set[str]]:
        """Sums by file name; only what was appended since the last time is read."""
        if not self._path.is_file():
            return {}
        start = self._num_read
        with self._path.open("rb") as text:
            if os.fstat(text.fileno()).st_size < start:
                self._sums, start = defaultdict(set), 0
            text.seek(start)
            whole, newline, _ = text.read().rpartition(b"\n")
        for line in whole.decode(errors="replace").splitlines():
            digest, _, name = line.partition("  ")
            self._sums[name].add(digest)
        # set, not added to: threads that read the same lines at once skip none
        self._num_read = start + len(whole) + len(newline)
        return self._sums

    def _name(self, file: Path) -> str:
        return file.relative_to(self._path.parent).as_posix()


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
