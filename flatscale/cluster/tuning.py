"""Tune runs the trials; where memory ran out, those it took with it run again one at a time."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from ray import tune
from ray.exceptions import OutOfMemoryError

from flatscale.cluster.mailbox import RecordWriter
from flatscale.cluster.measured_trial import ZooContext
from flatscale.cluster.trial import TrialContext, run_trial
from flatscale.errors import LostWorkerError
from flatscale.study.plan import TrialSpec
from flatscale.study.schema import StudyConfig

logger = logging.getLogger(__name__)

Request = Callable[[dict[str, Any]], tune.PlacementGroupFactory]


def run_on_tune(
    config: StudyConfig,
    todo: Sequence[TrialSpec],
    context: TrialContext | ZooContext,
    writer: RecordWriter,
    request: Request | None = None,
) -> dict[str, str]:
    """Run trials until each has a record, was lost too often, or the run was interrupted.

    When a machine's memory runs out, Ray kills workers and Tune ends. The trials that were running
    are then run alone, after the others, so that one that takes too much takes no other with it.

    Args:
        config: the study.
        todo: its trials to run.
        context: what they share.
        writer: of their records.
        request: what a trial of a configuration reserves; CPUs and GPUs of the study by default.

    Returns:
        What was lost, by trial id, of the trials that were lost more often than `max_retries`.
    """
    resources = config.resources
    lost: dict[str, str] = {}
    num_lost: Counter[str] = Counter()
    together, alone = list(todo), list[TrialSpec]()
    while together or alone:
        batch, at_a_time = (together, resources.max_concurrent_trials) if together else (alone, 1)
        before = writer.attempts.copy()
        try:
            lost |= _fit(config, batch, context, at_a_time, request)
            exhausted = None
        except RuntimeError as error:
            exhausted = _memory_error(error)
            if exhausted is None:
                raise
        left = [s for s in batch if s.trial_id not in writer.written and s.trial_id not in lost]
        if exhausted is None:
            if left:
                return lost  # interrupted
            together, alone = ([], alone) if together else ([], [])
            continue
        logger.warning("memory ran out: %s", exhausted)
        begun = [s for s in left if writer.attempts[s.trial_id] > before[s.trial_id]]
        suspects = begun or left[:1]
        num_lost.update(spec.trial_id for spec in suspects)
        if together:
            together = [spec for spec in left if spec not in suspects]
            alone += suspects
        else:
            given_up = {
                s.trial_id for s in suspects if num_lost[s.trial_id] > resources.max_retries
            }
            lost |= dict.fromkeys(given_up, f"its worker died: {exhausted}")
            alone = [spec for spec in left if spec.trial_id not in given_up]
    return lost


def _fit(
    config: StudyConfig,
    specs: Sequence[TrialSpec],
    context: TrialContext | ZooContext,
    at_a_time: int | None,
    request: Request | None,
) -> dict[str, str]:
    """One run of Tune; what was lost, by trial id, where Tune gave a trial up."""
    resources = config.resources
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, context=context),
        request or {"cpu": resources.cpus_per_trial, "gpu": resources.gpus_per_trial},
    )
    # Tune wants a place for a state that nothing here reads; not the store, which may be full.
    folder = Path(tempfile.gettempdir()) / f"flatscale-{uuid4().hex}"
    tuner = tune.Tuner(
        trainable,
        param_space={"spec": tune.grid_search(_UncopiedList(s.model_dump_json() for s in specs))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_a_time,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=resources.max_retries),
        ),
    )
    try:
        grid = tuner.fit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # A trial that never reported has no config in Tune's results, but its folder has its name.
    results = [grid[i] for i in range(len(grid))]
    return {Path(r.path).name: _what_was_lost(r.error) for r in results if r.error and r.path}


class _UncopiedList(list[str]):
    """A list that Tune, which copies the whole grid for each of its trials, does not copy."""

    def __deepcopy__(self, memo: Any) -> _UncopiedList:
        return self


def _trial_name(trial: Any) -> str:
    return TrialSpec.model_validate_json(trial.config["spec"]).trial_id


def _memory_error(error: BaseException) -> str | None:
    """What Ray says where an error comes of its killing workers for want of memory."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OutOfMemoryError):
            return str(cause).splitlines()[0]
        cause = cause.__cause__
    return None


def _what_was_lost(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    if isinstance(cause, LostWorkerError):
        return str(cause)
    # Ray says on the later lines how the process ended, such as by the kernel for want of memory.
    said = " ".join(str(error).split())[:600]
    return f"its worker died: {said or type(error).__name__}"
