"""Files that are either whole or absent, whatever is killed in between."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
"""How the name of a file begins that is not whole yet."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a temporary one in the same folder, then rename it into place.

    The content is on the disk before the name is, so a reader (or a restart after a crash) sees the
    old file or the new one and never a part of either. A process killed in between leaves the
    temporary file (`is_leftover`).

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def is_leftover(path: Path) -> bool:
    """Whether a file is, by its name, one that was never renamed into place."""
    return path.name.startswith(TEMPORARY_PREFIX)


def append_line(path: Path, line: str) -> None:
    """Append a line to a text file; it is on the disk when this returns.

    What a full disk or a killed process cut short before stays on a line of its own.

    Raises:
        OSError: the disk is full or the file cannot be written.
    """
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
