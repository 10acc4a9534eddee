"""The report of a store: complete, self-contained, made without torch, ray and mlflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
from synthetic_study import NASTY_FAMILY, fill_store, make_study

from flatscale.errors import StoreError
from flatscale.report import ReportPaths, write_study_report
from flatscale.stats import TABLES


@pytest.fixture(scope="module")
def written(full_report: ReportPaths) -> Path:
    return full_report.folder


def test_every_file_promised_is_there(written: Path) -> None:
    names = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert {"report.html", "findings.json", "findings.parquet"} <= names
    assert not [name for name in names if ".tmp-" in name]


def test_findings_say_the_same_as_parquet_and_json(written: Path) -> None:
    document = json.loads((written / "findings.json").read_text())
    frame = pl.read_parquet(written / "findings.parquet")
    assert document["tables"]["findings"] == frame.to_dicts()
    assert document["primary"] == ["sharpness", "mls"]


def test_flow_counts_every_planned_trial_once(written: Path) -> None:
    stages = json.loads((written / "findings.json").read_text())["tables"]["flow"]
    counted = {row["stage"]: row["num_trials"] for row in stages}
    assert counted == {
        "planned": 40,
        "not run": 1,
        "failed": 1,
        "diverged": 1,
        "finished": 37,
        "hit the step limit": 1,
        "not measured": 0,
        "used": 37,
        "unconverged": 1,
        "not in the plan": 1,
    }


def test_every_unused_trial_has_a_reason(written: Path) -> None:
    document = json.loads((written / "findings.json").read_text())
    unused = document["tables"]["unused"]
    assert {row["outcome"] for row in unused} == {"failed", "diverged", "not run"}
    assert all(row["reason"] for row in unused)
    assert [row["learning_rate"] for row in document["tables"]["foreign"]] == [77.0]


def test_names_from_outside_are_text_and_never_markup(written: Path) -> None:
    page = (written / "report.html").read_text()
    assert "<img src=x" not in page
    assert "<b>A synthetic study</b>" not in page
    assert "&lt;b&gt;A synthetic study&lt;/b&gt;" in page
    assert "onerror=alert" in page
    _, _, rest = page.partition('id="chart-data">')
    data = json.loads(rest.partition("</script>")[0])
    assert NASTY_FAMILY in {point["family"] for point in data["trials"]}
    assert page.count("<script") == page.count("</script>") == 4


def test_no_usable_trial_still_gives_a_report_that_says_why(
    empty_store: Path, tmp_path: Path
) -> None:
    paths = write_study_report(empty_store, out=tmp_path)
    page = paths.page.read_text()
    assert "None of the 40 planned trials can be used" in page
    assert "CUDA out of memory on &lt;worker 3&gt; &amp; co" in page
    assert json.loads(paths.findings.read_text())["problem"]


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a results store"):
        write_study_report(tmp_path)


def test_the_report_needs_neither_torch_nor_ray_nor_mlflow(
    report_process: tuple[ReportPaths, list[str]],
) -> None:
    assert not {"torch", "ray", "mlflow", "torchvision", "timm"} & set(report_process[1])


def test_what_an_earlier_report_wrote_goes_and_nothing_else(
    full_report: ReportPaths, empty_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(full_report.folder, tmp_path, dirs_exist_ok=True)
    mine = tmp_path / "tables" / "mine.tex"
    mine.write_text("kept")
    assert (tmp_path / "figures" / "scatter.pdf").is_file()
    write_study_report(empty_store, out=tmp_path)
    assert not (tmp_path / "figures" / "scatter.pdf").exists()
    assert mine.read_text() == "kept"


def test_the_same_store_gives_the_same_report(full_report: ReportPaths, full_store: Path) -> None:
    again = write_study_report(full_store, out=full_report.folder.parent / "again")
    for path in full_report.files:
        name = path.relative_to(full_report.folder)
        assert (again.folder / name).read_bytes() == path.read_bytes(), name


def test_every_table_of_the_analysis_is_written(full_report: ReportPaths) -> None:
    document = json.loads(full_report.findings.read_text())
    assert set(TABLES) <= set(document["tables"])
    for name in set(TABLES) - {"findings"}:
        frame = pl.read_parquet(full_report.folder / "data" / f"{name}.parquet")
        assert frame.columns == list(TABLES[name].schema)


def test_a_damaged_glossary_is_refused_by_name(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "store", make_study(num_snapshots=1), seed=3)
    (store.root / "glossary.json").write_text("{not json")
    with pytest.raises(StoreError, match=r"glossary\.json cannot be read"):
        write_study_report(store)


@pytest.mark.usefixtures("figures_undrawn")
def test_without_a_glossary_the_report_says_so(tmp_path: Path) -> None:
    store = fill_store(tmp_path / "store", make_study(num_snapshots=1), seed=3)
    (store.root / "glossary.json").unlink()
    assert "no glossary.json" in write_study_report(store).page.read_text()
