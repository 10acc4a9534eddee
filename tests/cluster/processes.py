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


def own_workers(title: str) -> list[int]:
    """Those of `workers` that this process, or one that it started, has started."""
    return [pid for pid in workers(title) if os.getpid() in _ancestors(pid)]


def _ancestors(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        while pid > 1:
            # "pid (name) state parent ...": a name may hold spaces and parentheses
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            found.append(pid)
    return found


def kill(pids: list[int]) -> int:
    """SIGKILL; the number of processes that were there to be killed."""
    killed = 0
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed
