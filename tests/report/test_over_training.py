"""When networks knew their training set, the phases of a layer, and what is said of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flatscale.measurement import Measurement
from flatscale.report.content.from_store import content_of_store
from flatscale.report.content.over_training import FALL, information_plane
from flatscale.report.content.report_content import Content
from flatscale.report.content.section import SECTIONS
from flatscale.report.words.course_of_training import information_sentence, training_sentence
from flatscale.store.records import Snapshot
from flatscale.store.results import Store
from flatscale.study.plan import plan
from tests.records_by_hand import record, study

STEPS = (1, 10, 100, 1000)
# Per network: training accuracy at each step, evaluated losses, I(X; T) of the layers "2" and "4".
COURSES: list[dict[str, Any]] = [
    {"right": (0.1, 0.9, 1.0, 1.0), "losses": [(40, 0.5)], "2": (1, 3, 5, 6), "4": (1, 4, 3, 2)},
    {"right": (0.1, 0.9, 0.95, 1.0), "losses": [(5, 0.5), (60, 0.01)], "2": (2, 3, 4, 3.8),
     "4": (1, 4, 3.9, 3.8)},
    {"right": (0.1, 0.2, 0.3, 0.4), "losses": [(900, 0.02)], "2": (3, 3, 3, 3), "4": (4, 4, 4, 3)},
]  # fmt: skip


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    config = study(
        num_seeds=1,
        training={"stop_loss": 0.01},
        measurement={
            "probe_size": 64,
            "metrics": ["mls", "sharpness", "train_accuracy", "test_loss", "input_information",
                        "label_information"],
        },
        analysis={"primary": ["sharpness", "mls"], "outcomes": ["test_loss"], "num_resamples": 100},
    )  # fmt: skip
    store = Store(tmp_path_factory.mktemp("stores") / "course")
    store.prepare(config)
    for index, spec in enumerate(plan(config)):
        course = COURSES[index % 3]
        snapshots = tuple(
            Snapshot(
                step=step,
                is_final=step == STEPS[-1],
                probe_hash="probe",
                measurements=tuple(measured(course, place, index)),
            )
            for place, step in enumerate(STEPS)
        )
        store.write(record(spec, snapshots=snapshots, history=tuple(course["losses"])))
    return content_of_store(store)


def measured(course: dict[str, Any], place: int, index: int) -> list[Measurement]:
    plain = {
        "mls": 1.0 + index + place,
        "sharpness": 2.0 + index**2 + place,
        "train_accuracy": course["right"][place],
        "test_loss": 8.0 - place,
    }
    made = [Measurement(name=name, value=float(value)) for name, value in plain.items()]
    for name, scale in (("input_information", 1.0), ("label_information", 0.1)):
        layers = {layer: scale * course[layer][place] for layer in ("2", "4")}
        made.append(Measurement(name=name, value=layers["4"], layers=layers, num_points=64))
    return made


def of_trial(content: Content, index: int) -> str:
    """The name of a trial by its place in the plan."""
    return str(content.rows["name"][index])


def test_a_network_knows_its_training_set_from_the_first_sign_of_it(content: Content) -> None:
    moments = dict(content.interpolated.iter_rows())
    # By accuracy at a snapshot, by an evaluated loss between snapshots, and not at all.
    assert [moments.get(of_trial(content, i)) for i in range(4)] == [100, 60, None, 100]


def test_the_phases_follow_the_rule(content: Content) -> None:
    table = information_plane(content)
    assert set(table["log2_n"]) == {6.0}
    for index in range(3):
        for layer in ("2", "4"):
            own = table.filter(label=of_trial(content, index), layer=layer).sort("step")
            values = COURSES[index][layer]
            falls = max(values) - values[-1] > FALL * 6
            turn = values.index(max(values))
            expected = ["compression" if falls and i > turn else "fitting" for i in range(4)]
            assert own["phase"].to_list() == expected, (index, layer)
            assert own["turning"].to_list() == [falls and i == turn for i in range(4)]
            assert own["label_information"].to_list() == pytest.approx([v / 10 for v in values])
    assert information_plane(replace(content, layers=content.layers.clear())).is_empty()


def test_the_sentences_count_what_the_table_says(content: Content) -> None:
    said = information_sentence(content)
    # Layer 2 falls by 0.2 of 6 bits at most; layer 4 by 2, 0.2, 1 and 2 bits.
    assert "2 in 0 of 4 networks (I(X; T) ends at 82% of log2 n)" in said
    assert "4 in 3 of 4 networks (I(X; T) ends at 42% of log2 n)" in said
    section = SECTIONS["information"].function(content)
    assert section is not None
    assert section.sentence == said
    assert any("Saxe et al. 2018" in text for text in section.paragraphs)
    said = training_sentence(content)
    assert "4 networks were measured at up to 4 steps of training" in said
    assert "3 of 4 came to know their training set by heart, at step 100 in the median." in said
    assert "Medians from there to the end, over the 3 networks that trained on" in said
    assert "test_loss 6.00 → 5.00" in said
    none = replace(content, interpolated=content.interpolated.clear())
    assert training_sentence(none).endswith("None was seen to know its training set by heart.")
    assert training_sentence(replace(content, trajectories=content.trajectories.clear())) == ""


def test_without_the_metrics_there_is_no_section(content: Content) -> None:
    without = replace(content, layers=content.layers.clear())
    assert SECTIONS["information"].function(without) is None
    assert SECTIONS["training"].function(without) == SECTIONS["training"].function(content)
