"""A plugin's statistic and section, in the findings and on the page; the documentation's too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flatscale.errors import ConfigError
from flatscale.report import Section, section, write_study_report
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import record, study

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "docs" / "plugins.md"
PLUGIN = '''
import numpy as np
import polars as pl

from flatscale.report import Content, Point, Section, section, table_view
from flatscale.stats import Column, Estimate, statistic
from flatscale.stats.tables.declaration import REAL, TEXT, declare

SIGNS = declare(
    "signs",
    "one pair",
    Column("y", TEXT, "the column", "column"),
    Column("estimate", REAL, "quadrant correlation", "agreement", "correlation"),
    title="Do the signs agree?",
)


@statistic("quadrant")
def quadrant(x, y, confidence):
    """Mean product of the signs about the medians."""
    signs = np.sign(x - np.median(x)) * np.sign(y - np.median(y))
    return Estimate(estimate=float(signs.mean()), num_trials=len(x))


@section("signs", title="Signs about the medians", after="families")
def signs(content: Content) -> Section | None:
    found = content.of_primary("findings").filter(pl.col("method") == "quadrant")
    said = f"Over {found['num_trials'][0]} networks <counted>."
    return Section(
        sentence="They agree <mostly>.",
        paragraphs=(said,),
        points=(Point(lead="Which one?", text="Blomqvist's."),),
        tables=(table_view(SIGNS, found),),
    )


@section("nothing", title="Has nothing to say", after="families")
def nothing(content: Content) -> Section | None:
    return None
'''


def store_of(root: Path, *plugins: str) -> Store:
    config = study(plugins=list(plugins))
    store = Store(root / "store")
    store.prepare(config)
    for index, spec in enumerate(plan(config)):
        store.write(record(spec, train_seconds=float(index)))
    return store


def test_a_statistic_and_a_section_of_a_plugin_are_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "my_signs.py").write_text(PLUGIN)
    (of_page,) = re.findall(r"```python\n(# my_report\.py\n.*?)```", PLUGINS.read_text(), re.S)
    (tmp_path / "my_report.py").write_text(of_page)
    store = store_of(tmp_path, "my_signs", "my_report")
    program = "import sys; from flatscale.report import write_study_report as w; w(sys.argv[1])"
    # A process of its own: what a plugin registers stays registered.
    ended = subprocess.run(
        [sys.executable, "-c", program, str(store.root)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert ended.returncode == 0, ended.stderr
    folder = store.report
    document = json.loads((folder / "findings.json").read_text())
    methods = {row["method"] for row in document["tables"]["findings"]}
    assert {"quadrant", "quadrant_jackknife", "percentage_bend"} <= methods
    page = (folder / "report.html").read_text()
    body = page[page.index("<main>") :]
    assert body.index('<section id="families"') < body.index('<section id="signs"')
    assert body.index('<section id="signs"') < body.index('<section id="trials"')
    assert '<p class="says">They agree &lt;mostly&gt;.</p>' in body
    answers = document["answers"]
    assert answers["Signs about the medians"] == "They agree <mostly>."
    assert "<h2>Signs about the medians</h2>" in page
    assert "Over 12 networks &lt;counted&gt;." in page
    assert "Has nothing to say" not in page
    assert "<h2>Networks of each family</h2>" in page
    assert "<p>lenet: 6</p>" in page
    assert (folder / "tables" / "signs.tex").is_file()


def test_a_plugin_that_is_absent_where_the_report_is_made_is_a_note(tmp_path: Path) -> None:
    paths = write_study_report(store_of(tmp_path, "not_installed_here"))
    notes = json.loads(paths.findings.read_text())["notes"]
    assert any("'not_installed_here' could not be imported" in note for note in notes)
    assert "not_installed_here" in paths.page.read_text()


def test_a_section_needs_a_name_of_its_own_and_one_to_follow() -> None:
    with pytest.raises(ConfigError, match="unknown report section 'familys' \\(did you mean"):
        section("mine", title="Mine", after="familys")
    with pytest.raises(ConfigError, match="named 'families' is registered already"):
        section("families", title="Mine")(lambda content: Section())
