"""Files that are either whole or absent, whatever is killed in between."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a temporary one in the same folder, then rename it into place.

    The content is on the disk before the name is, so a reader (or a restart after a crash) sees the
    old file or the new one and never a part of either. Leftover temporary files start with `.tmp-`.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
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
