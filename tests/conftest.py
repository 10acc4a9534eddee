"""What every test can use."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """Real CIFAR-10 images in the Hugging Face parquet layout, where they are at hand."""
    folder = SHARED / "cifar10"
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is not beside the checkout (../shared/data/cifar10)")
    return folder
