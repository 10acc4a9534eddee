"""What every test can use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# One thread a process: the tests' networks are small, and their processes share few cores.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """Real CIFAR-10 images in the Hugging Face parquet layout, where they are at hand."""
    folder = SHARED / "cifar10"
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is not beside the checkout (../shared/data/cifar10)")
    return folder
