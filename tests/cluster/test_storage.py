"""The disk fills, the store cannot be written, a checkpoint is cut short: said, and survived."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flatscale.store.results import Store

Command = Callable[..., subprocess.CompletedProcess[str]]
MakeFile = Callable[..., Path]


def in_a_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flatscale", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 700 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_ends_the_run_with_one_message_and_a_readable_store(
    study_file: MakeFile, small_disk: Path
) -> None:
    design = {"kind": "grid", "learning_rate": [0.3], "batch_size": [20], "num_seeds": 60}
    config = study_file(
        design=design,
        tracking={"enabled": False},
        training={"max_steps": 5},
        measurement={"probe_size": 21, "metrics": ["mls", "train_loss"]},
    )
    store = small_disk / "store"
    done = in_a_process("run", str(config), "--store", str(store))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "run the same command again" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    results = Store(store).read()
    assert 0 < results.trials.height < 60
    assert results.measurements["value"].is_finite().all()

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    done = in_a_process("run", str(config), "--store", str(store))
    assert done.returncode == 0, done.stderr
    assert f"{results.trials.height} from earlier runs" in done.stdout


def test_a_store_that_cannot_be_written_is_refused_before_anything_runs(
    study_file: MakeFile, tmp_path: Path, flatscale: Command
) -> None:
    (tmp_path / "file").write_text("in the way")
    done = flatscale("run", str(study_file()), "--store", str(tmp_path / "file" / "store"))
    assert done.returncode == 2
    assert "cannot write the store" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_checkpoint_cut_short_fails_its_trial_with_the_file_named_and_no_other(
    study_file: MakeFile, tmp_path: Path
) -> None:
    config = study_file(keep_checkpoints=True)
    store = tmp_path / "store"
    assert in_a_process("run", str(config), "--store", str(store)).returncode == 0
    weights = sorted((store / "checkpoints").glob("*.safetensors"))
    assert len(weights) == 4
    weights[0].write_bytes(weights[0].read_bytes()[:-40])

    # Measuring more takes the kept weights; one of the four is broken.
    command = [sys.executable, "jobs/measure.py", str(config), "nmls", "--store", str(store)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 1, done.stderr
    assert "1 failed, 3 finished" in done.stdout
    results = Store(store).read()
    # The first measurement is still there beside the second.
    assert results.trials.height == 8
    failed = results.trials.filter(status="failed")
    assert weights[0].name in failed["reason"].item()
    assert results.measurements.filter(metric="nmls")["value"].is_finite().sum() == 3
    assert results.trials["train_seconds"].drop_nulls().len() == 7
    said = in_a_process("status", str(store))
    assert weights[0].name in said.stdout
    assert "1 failed" in said.stdout
