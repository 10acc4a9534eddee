"""A second test set with the same classes: read like the first, named in ids and hashes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from flatscale.data import DATASETS, Source, array_split, dataset, load_points
from flatscale.errors import ConfigError, DataError
from flatscale.metrics import metric_info
from flatscale.preflight import check_study
from flatscale.study.plan import plan
from tests.records_by_hand import study


@pytest.fixture(autouse=True)
def inverted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits as negatives, their classes in the opposite order, as a source of its own."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS.items()))

    @dataset("inverted")
    def load(config: Any, *, side: int = 8, lacking: bool = False) -> Source:
        digits = load_digits()
        images = (1 - digits.images[:, None] / 16).repeat(side // 8, 2).repeat(side // 8, 3)
        split = array_split(images, 9 - digits.target, "negatives", config.image_size)
        names = [str(9 - k) if not (lacking and k == 0) else "none" for k in range(10)]
        return Source(train=split, test=split, class_names=tuple(names))


def with_shifted(**parts: Any) -> Any:
    data = {"train_size": 100, "classes": ["3", "8", "9"]}
    return study(data={**data, "shifted": {"source": "inverted", **parts}})


def test_images_keep_their_classes_whatever_the_other_order_is() -> None:
    x, y = load_points(with_shifted(size=30)).point_sets["shifted"]
    assert x.shape == (30, 1, 8, 8)
    assert np.bincount(y).tolist() == [10, 10, 10]
    digits = load_digits()
    negatives = (1 - digits.images / 16).astype(np.float32)
    known = {image.tobytes(): k for image, k in zip(negatives, digits.target, strict=True)}
    assert [known[image.tobytes()] for image in x[:, 0]] == [(3, 8, 9)[k] for k in y]


def test_it_is_part_of_ids_and_of_the_data_hash_but_its_place_is_not() -> None:
    plain, shifted = study(data={"train_size": 100, "classes": ["3", "8", "9"]}), with_shifted()
    assert {s.trial_id for s in plan(plain)}.isdisjoint(s.trial_id for s in plan(shifted))
    assert plan(with_shifted(path="/here")) != plan(with_shifted(path="/there"))
    here, there = (plan(with_shifted(path=path)) for path in ("/here", "/there"))
    assert [s.trial_id for s in here] == [s.trial_id for s in there]
    hashes = {load_points(s).dataset.content_hash for s in (plain, shifted, with_shifted(size=30))}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"options": {"side": 16}}, r"data\.shifted: inputs are \(1, 16, 16\), those of the study"),
        ({"options": {"lacking": True}}, r"data\.shifted: .*'9'"),
        ({"source": "parquet"}, r"data\.shifted: .* needs data\.path"),
    ],
)
def test_what_does_not_fit_is_refused(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_points(with_shifted(**parts))


def test_images_that_the_study_scrambles_have_no_shifted_set() -> None:
    data = {"train_size": 100, "pixels": "permuted", "shifted": {"source": "inverted"}}
    with pytest.raises(DataError, match=r"leave out data\.pixels or data\.shifted"):
        load_points(study(data=data))


def test_another_size_is_brought_to_that_of_the_study() -> None:
    config = with_shifted(options={"side": 16}, size=6)
    smaller = config.model_copy(update={"data": config.data.model_copy(update={"image_size": 8})})
    assert load_points(smaller).point_sets["shifted"][0].shape == (6, 1, 8, 8)


def test_its_metrics_and_options_are_checked_before_anything_starts() -> None:
    metrics = {"metrics": ["mls", "sharpness", "shifted_accuracy"]}
    assert metric_info("shifted_accuracy").observers == ("shifted",)
    with pytest.raises(ConfigError, match="shifted_accuracy needs a second test set: set"):
        check_study(study(measurement=metrics))
    data = {"shifted": {"source": "inverted"}}
    assert check_study(study(measurement=metrics, data=data))
    data = {"shifted": {"source": "inverted", "options": {"site": 16}}}
    with pytest.raises(DataError, match="did you mean 'side'"):
        check_study(study(measurement=metrics, data=data))
