"""Freed memory is kept for reuse: asking for it again touches no new pages."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from flatscale.cluster.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep" and not keep_freed_memory():
    print("cannot")
    raise SystemExit
for _ in range(3):
    [torch.ones(3_000_000) for _ in range(8)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    [torch.ones(3_000_000) for _ in range(8)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    command = [sys.executable, "-c", CODE, mode]
    # Without what other libraries put into the environment, such as another allocator.
    kept = ("PATH", "HOME", "PYTHONPATH", "VIRTUAL_ENV", "LANG")
    clean = {name: os.environ[name] for name in kept if name in os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean)
    if done.stdout.strip() == "cannot":
        pytest.skip("the C library has no mallopt")
    return int(done.stdout)


def test_memory_that_was_freed_is_used_again() -> None:
    by_default = page_faults("default")
    if by_default < 100:
        pytest.skip("this system keeps freed memory, or has huge pages, without being told")
    assert page_faults("keep") < by_default / 10
