"""Finding and killing Ray's worker processes, by the titles Ray gives them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def workers(title: str) -> list[int]:
    """Process ids of Ray workers whose title starts with `ray::` and holds a word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
            if command.startswith("ray::") and title in command:
                found.append(int(folder.name))
    return sorted(found)


def kill(pids: list[int]) -> int:
    """SIGKILL; the number of processes that were there to be killed."""
    killed = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed
