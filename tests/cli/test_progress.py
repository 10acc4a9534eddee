"""What the terminal shows while a run goes on."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flatscale.cli import progress
from flatscale.cli.progress import ProgressLine
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import record, study


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_running_trials_are_named_and_the_time_left_moves_between_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    store, specs = Store(tmp_path), plan(study())
    store.prepare(study())
    store.write(record(specs[0]))
    line = ProgressLine(Console(file=io.StringIO()), store, specs)
    clock.now += 30  # Ray starts
    assert line.detail().startswith("data, Ray")
    line.started(specs[1].trial_id)
    line.started(specs[2].trial_id)
    clock.now += 10
    assert [text.split("  ")[1:5] for text in line.running()] == [
        ["mlp", "lr 0.2", "batch 16", "seed 0"],
        ["lenet", "lr 0.1", "batch 16", "seed 0"],
    ]
    assert line.seconds_left() is None
    line.ended(record(specs[1]))
    assert line.seconds_left() == pytest.approx(100)  # 10 s a trial, 10 of 12 to go
    clock.now += 4
    assert line.seconds_left() == pytest.approx(96)
    assert "about 2 min left" in line.detail()
    for spec in specs[2:]:
        line.ended(record(spec))
    assert line.detail() == "statistics and report"


def test_a_log_has_one_line_for_the_first_trials_and_one_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    store, specs = Store(tmp_path), plan(study())
    sink = io.StringIO()
    with ProgressLine(Console(file=sink), store, specs) as line:
        line.started(specs[0].trial_id)
        assert not sink.getvalue()
        line.started(specs[1].trial_id)
        assert sink.getvalue() == "0/12 trials, 2 running\n"
        line.ended(record(specs[0]))
        clock.now += 11
        line.ended(record(specs[1]))
    assert len(sink.getvalue().splitlines()) == 2


def test_the_first_line_comes_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from flatscale.cli import commands\n"
        "def first(*_, **__):\n"
        "    heavy = {'torch', 'ray', 'mlflow', 'polars'} & set(sys.modules)\n"
        "    sys.exit(f'heavy: {sorted(heavy)}')\n"
        "commands.out.print = first; sys.argv = ['flatscale', 'run', 'study.yaml']\n"
        "commands.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "heavy: []"
