"""Run a study as a Ray job: ray job submit --working-dir . -- python jobs/run_study.py CONFIG.

Takes the arguments of `flatscale run`. A job's working directory is a temporary copy, so --store
must be an absolute path that outlives the job. Exits with 0 if every trial has a result, 1 if one
failed, 2 if the study cannot be run, 130 if it was stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flatscale.cli.commands import main

if __name__ == "__main__":
    sys.argv.insert(1, "run")
    main()
