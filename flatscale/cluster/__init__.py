"""Running trials on Ray: Tune launches them, probe actors measure them, one writer records them."""

from flatscale.cluster.launch import Listener, RunSummary, missing_trials, run_trials

__all__ = ["Listener", "RunSummary", "missing_trials", "run_trials"]
