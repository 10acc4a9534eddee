"""Measure more on networks that a study kept, or on a zoo's, without training any.

    python jobs/measure.py CONFIG METRIC [METRIC ...] [--store DIR] [--profile NAME]

CONFIG is the study as it was run with `keep_checkpoints: true`, or a study of a zoo. Every kept
network is measured again with the study's metrics and those named here, on the same probe set; the
records of the new measurement stand beside the old ones in the same store, and the report is
written anew. A network whose weights were not kept is refused, not trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flatscale.errors import FlatscaleError, StoreError


def main() -> int:
    """Parse the arguments and run; 0 when every kept network was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("metrics", nargs="+")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--address")
    parser.add_argument("--profile")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    try:
        return measure_kept(arguments)
    except FlatscaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def measure_kept(arguments: argparse.Namespace) -> int:
    """Run the study with more metrics, after making sure that nothing would have to be trained."""
    from flatscale.models.zoo import read_zoo
    from flatscale.pipeline import run_study
    from flatscale.preflight import check_study
    from flatscale.store.results import Store
    from flatscale.study.reading import load_config

    written = load_config(arguments.config, tuple(arguments.overrides), arguments.profile)
    study = read_zoo(written).study
    store = Store(arguments.store or Path("runs") / study.name)
    metrics = tuple(dict.fromkeys((*study.measurement.metrics, *arguments.metrics)))
    measurement = study.measurement.model_copy(update={"metrics": metrics, "num_snapshots": 1})
    keeps = not study.only_measures
    wider = study.model_copy(update={"measurement": measurement, "keep_checkpoints": keeps})
    specs = check_study(wider)
    lost = [s for s in specs if keeps and not store.weights_file(s.weights_id).exists()]
    if lost:
        raise StoreError(
            f"{store.checkpoints} has no weights of {len(lost)} of the study's networks, such as "
            f"{lost[0].network_id}; run the study with keep_checkpoints: true first"
        )
    outcome = run_study(wider, specs, store, address=arguments.address)
    counts = ", ".join(f"{n} {status}" for status, n in sorted(outcome.summary.statuses.items()))
    print(f"{counts}; report {outcome.report or 'not written'}")
    return 1 if outcome.summary.statuses["failed"] or outcome.summary.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
