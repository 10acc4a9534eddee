"""What `flatscale plan` says of the size of a study."""

from __future__ import annotations

from pathlib import Path

from flatscale.cli.pilot import size_needed
from flatscale.report.content.from_store import content_of_store
from flatscale.store.results import Store
from tests.report.synthetic_study import fill_store, make_study


def test_finished_trials_are_the_pilot(tmp_path: Path) -> None:
    study = make_study(num_rates=4, num_batches=2, num_seeds=2)
    store = fill_store(tmp_path / "store", study, seed=1)
    said = size_needed(study, store, 0.1)
    # as the table of the report, which is made from the same trials
    row = content_of_store(store).of_primary("required_numbers").filter(half_width=0.1)
    families, configurations = row["families"][0], row["configurations"][0]
    assert f"gives ±{row['now'][0]:.2g}" in said
    assert (families is None) == ("families in all" not in said)
    if configurations is not None:
        assert f"{configurations} configurations in each family" in said
    wide = size_needed(study, store, 0.97)
    assert "that is within ±0.97" in wide


def test_without_a_pilot_it_says_how_to_get_one(tmp_path: Path) -> None:
    study = make_study()
    assert "Run a part of the study" in size_needed(study, Store(tmp_path / "none"), 0.1)
    failed = fill_store(tmp_path / "failed", study, seed=1, everything_fails=True)
    assert "Run a part of the study" in size_needed(study, failed, 0.1)


def test_a_pilot_of_other_metrics_is_none(tmp_path: Path) -> None:
    study = make_study()
    store = fill_store(tmp_path / "store", study, seed=1)
    other = study.model_copy(
        update={"analysis": study.analysis.model_copy(update={"primary": ("sharpness", "lvr")})}
    )
    assert "did not measure lvr" in size_needed(other, store, 0.1)


def test_a_pilot_may_be_too_small(tmp_path: Path) -> None:
    study = make_study(num_rates=1, num_batches=1)
    store = fill_store(tmp_path / "store", study, seed=1)
    assert "a larger pilot is needed" in size_needed(study, store, 0.1)
