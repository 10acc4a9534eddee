"""Ray kills workers because the machine runs out of memory: the hog fails, the others go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flatscale.store.results import Store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
GIB = 2**20  # in the kernel's unit, KiB
HOG_GIB, ALLOWED_GIB = 6, 4


def memory() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def test_a_trial_that_takes_all_memory_fails_naming_it_and_takes_no_other_with_it(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    now = memory()
    if now["MemAvailable"] < (HOG_GIB + 2) * GIB:
        pytest.skip(f"needs {HOG_GIB + 2} GiB of free memory")
    # Ray's own limit, that much above what is in use now.
    limit = 1 - (now["MemAvailable"] - ALLOWED_GIB * GIB) / now["MemTotal"]
    config = study_file(
        models=[
            {"architecture": "devours_memory", "options": {"gib": HOG_GIB}, "family": "hog"},
            {"architecture": "mlp", "options": {"width": 16}},
        ],
        design={"kind": "grid", "learning_rate": [0.1], "batch_size": [20], "num_seeds": 2},
        plugins=["tests.cluster.plugin"],
        resources={"max_retries": 1},
        tracking={"enabled": False},
    )
    store = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-m", "flatscale", "run", str(config), "--store", str(store)],
        env={**os.environ, "RAY_memory_usage_threshold": f"{limit:.4f}"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    trials = Store(store).read().trials
    hogs, others = trials.filter(family="hog"), trials.filter(family="mlp")
    assert hogs["status"].to_list() == ["failed"] * 2
    assert hogs["num_attempts"].min() >= 2
    assert hogs["reason"].str.contains("low on memory").all()
    assert others["status"].to_list() == ["finished"] * 2
    assert (store / "report" / "report.html").is_file()
