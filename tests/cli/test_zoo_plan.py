"""What is said of a zoo before it runs: sizes, memory, time; and more measured on it later."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flatscale.cli.commands import app
from flatscale.cluster.launch import RunSummary
from flatscale.models import build_model
from flatscale.pipeline import StudyOutcome
from flatscale.study.plan import TrialSpec
from flatscale.study.schema import StudyConfig
from tests.kept_networks import write_zoo


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """Three kept networks and a probe of images; no other images are needed."""
    study = {
        "name": "zoo",
        **write_zoo(tmp_path, (4, 8, 500), num_images=8),
        "measurement": {
            "metrics": ["input_invariant_mls"],
            "probe_size": 4,
            "probe_split": "test",
        },
        "analysis": {"primary": ["num_parameters", "input_invariant_mls"], "outcomes": []},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def test_the_plan_of_a_zoo_lists_sizes_and_estimates_the_time(study_file: Path) -> None:
    arguments = ["plan", str(study_file), "--store", str(study_file.parent / "store")]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    parameters = sum(
        p.numel() for p in build_model("mlp", (1, 8, 8), 2, {"width": 500}, seed=0).parameters()
    )
    assert f"{parameters / 1e6:.2f} M" in shown.output
    assert "1x8x8" in shown.output
    assert "measured " not in shown.output
    timed = CliRunner().invoke(app, [*arguments, "--time"], env={"COLUMNS": "200"})
    assert timed.exit_code == 0, timed.output
    assert [
        line.split()[1] for line in timed.output.splitlines() if line.startswith("measured")
    ] == [
        "4:",
        "8:",
        "500:",
    ]
    assert "min for 3 networks" in timed.output


def test_more_is_measured_on_a_zoo_by_the_same_job(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = runpy.run_path("jobs/measure.py", run_name="job")
    ran: list[Any] = []

    def run_study(study: StudyConfig, specs: list[TrialSpec], *_: Any, **__: Any) -> StudyOutcome:
        ran.extend(specs)
        summary = RunSummary(num_kept=0, statuses=Counter(finished=3), interrupted=False)
        return StudyOutcome(summary=summary, report=None, tracking=None, tracking_problem=None)

    monkeypatch.setattr("flatscale.pipeline.run_study", run_study)
    store = str(study_file.parent / "store")
    monkeypatch.setattr("sys.argv", ["measure.py", str(study_file), "finite_mls", "--store", store])
    assert job["main"]() == 0
    assert [spec.name for spec in ran] == ["4", "8", "500"]
    assert ran[0].measurement.metrics == ("input_invariant_mls", "finite_mls")
    assert all(spec.weights is not None for spec in ran)
