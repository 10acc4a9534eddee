"""Benchmarks run with a thread for every core, and with the allocator as in flatscale's workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from flatscale.cluster.allocator import keep_freed_memory


@pytest.fixture(autouse=True)
def _every_core() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    keep_freed_memory()
    yield
    torch.set_num_threads(before)
