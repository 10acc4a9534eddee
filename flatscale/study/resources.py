"""What a study may use of a machine or a cluster."""

from __future__ import annotations

from pydantic import Field

from flatscale.study.parts import Part


class ResourcesConfig(Part):
    """What a trial and a probe actor may use; changes nothing about the results."""

    cpus_per_trial: float = Field(default=1, gt=0)
    """CPUs a trial reserves."""
    gpus_per_trial: float = Field(default=0, ge=0)
    """GPUs a trial reserves; fractions share one."""
    max_concurrent_trials: int | None = Field(default=None, ge=1)
    """Trials at a time; as many as fit by default."""
    probe_actors: int = Field(default=2, ge=1)
    """Ray actors that measure, each holding one shard of the probe set."""
    cpus_per_probe_actor: float = Field(default=0, ge=0)
    """CPUs a probe actor reserves; 0 lets it share with the trials, which cannot deadlock."""
    gpus_per_probe_actor: float = Field(default=0, ge=0)
    """GPUs a probe actor reserves."""
    max_snapshots_in_flight: int = Field(default=2, ge=1)
    """Snapshots of one trial being measured while it goes on training."""
    max_retries: int = Field(default=3, ge=0)
    """How often a trial whose worker died is started again."""

    @property
    def threads_per_trial(self) -> int:
        """Of a trial's process."""
        return max(1, int(self.cpus_per_trial))
