"""How large a study has to be, from the trials it has finished."""

from __future__ import annotations

from dataclasses import asdict, replace

from flatscale.store.records import FINISHED
from flatscale.store.results import Store
from flatscale.study.schema import StudyConfig


def size_needed(study: StudyConfig, results: Store, half_width: float) -> str:
    """Families, configurations or seeds for an interval of the primary r of a wanted half width.

    The finished trials are the pilot: their variance components tell what more of each level would
    do. Where there are none, how to get them.

    Raises:
        StoreError: a record is damaged.
    """
    x, y = study.analysis.primary
    wanted = f"r({x}, {y}) within ±{half_width:g}"
    if FINISHED not in results.statuses().values():
        return (
            f"{wanted}: how many families, configurations and seeds that needs, a pilot tells. Run "
            "a part of the study (stop `flatscale run` at any time, nothing is lost), then plan "
            "again."
        )
    from flatscale.report.content.from_store import usable_trials
    from flatscale.report.words.robustness import needed_words
    from flatscale.stats.design import pair_sample
    from flatscale.stats.estimators.required_number import required_number

    rows, design = usable_trials(results)
    absent = [name for name in (x, y) if name not in rows.columns or not rows[name].count()]
    if absent:
        return f"{wanted}: no pilot, for the finished trials did not measure {', '.join(absent)}."
    sample = pair_sample(rows, replace(design, log=study.analysis.log), x, y)
    found = required_number(sample, half_width=half_width)
    if found.now is None:
        return f"{wanted}: a larger pilot is needed. {found.reason}."
    size = (
        f"{sample.num_trials} trials so far, a balanced study of that size gives ±{found.now:.2g}"
    )
    return f"r({x}, {y}): {size}; {needed_words(asdict(found))}."
