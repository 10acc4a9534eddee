"""Telling glibc to keep the memory of freed tensors, which the next pass asks for again.

By default glibc returns large freed blocks to the system and gets them back page by page: a fifth
of the time of a Jacobian pass on a small network. Only flatscale's own worker processes do this;
a process that merely calls `measure` keeps the allocator it has.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE, _NEVER = 2**30, 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for reuse; False where the C library cannot."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
