"""What README shows works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from flatscale.metrics import measure
from flatscale.models import build_model
from flatscale.preflight import check_study
from flatscale.study.plan import plan
from flatscale.study.reading import parse_config
from flatscale.study.registry import import_plugins

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_study_is_valid() -> None:
    (text,) = blocks("yaml")
    assert len(plan(parse_config(yaml.safe_load(text)))) == 64


def test_the_general_design_is_valid() -> None:
    (text,) = re.findall(r"```\n(design:.*?)```", README, flags=re.DOTALL)
    study = {"name": "s", "models": [{"architecture": "mlp"}], **yaml.safe_load(text)}
    assert len(check_study(parse_config(study))) == (2 * 2 * 2 * 3 - 4) * 3


def test_the_library_example_runs() -> None:
    (code,) = [block for block in blocks("python") if "from flatscale import measure" in block]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    points = {"model": model, "x": torch.rand(5, 1, 2, 2), "y": torch.tensor([0, 1, 2, 0, 1])}
    exec(code, points)
    assert points["report"]["mls"].value > 0


def test_the_plugins_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = []
    for block in blocks("python"):
        if found := re.match(r"# (my_\w+)\.py\n", block):
            (tmp_path / f"{found[1]}.py").write_text(block)
            modules.append(found[1])
    assert modules == ["my_metrics", "my_models", "my_report"]
    monkeypatch.chdir(tmp_path)
    # The section would stay in every report of this process; test_report_plugins has it in its own.
    import_plugins(modules[:2])
    model = build_model("linear", (1, 2, 2), 3, {"bias": False}, seed=0)
    report = measure(
        model,
        (torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])),
        metrics=["largest_gram_trace", "input_gradient"],
    )
    # A linear network has the same Jacobian everywhere.
    assert report["largest_gram_trace"].value == pytest.approx(report["input_gradient"].value)


def test_every_command_is_named() -> None:
    for command in ("plan", "run", "status", "report", "analyze", "metrics", "ui", "schema"):
        assert f"`flatscale {command}" in README
