"""From a study to its trials, each named by a hash of everything that determines its result."""

from __future__ import annotations

import itertools
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from flatscale.errors import ConfigError
from flatscale.study.identity import content_hash, result_content
from flatscale.study.plugin_code import with_code
from flatscale.study.schema import (
    DataConfig,
    Design,
    GridDesign,
    MeasurementConfig,
    Options,
    StudyConfig,
    TrainingConfig,
)
from flatscale.study.seeds import derive_seed


class TrialSpec(BaseModel):
    """One network of a study: what to train, how, and what to measure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study_seed: int
    data: DataConfig
    architecture: str
    family: str | None
    """A label for the statistics; not part of the id."""
    options: Options
    training: TrainingConfig
    measurement: MeasurementConfig
    learning_rate: float
    batch_size: int
    seed_index: int
    network_code: dict[str, str] = {}
    """The code of the plugins that determine the network; see `study.plugin_code`."""
    measurement_code: dict[str, str] = {}
    """The code of the plugins that determine what is measured."""

    @cached_property
    def network_id(self) -> str:
        """Hash of what determines the trained network; names its checkpoint."""
        return content_hash(self._network_content)

    @cached_property
    def trial_id(self) -> str:
        """Hash of what determines the network and its measurements; names the trial's record."""
        measurement = self._content["measurement"]
        measurement = {**measurement, "metrics": sorted(measurement["metrics"])}
        code = {"measurement_code": self.measurement_code} if self.measurement_code else {}
        named = {"network": self._network_content, "measurement": measurement, **code}
        return content_hash(named)

    @cached_property
    def _content(self) -> dict[str, Any]:
        return result_content(self)

    @property
    def _network_content(self) -> dict[str, Any]:
        of_measurement = ("measurement", "measurement_code")
        return {name: part for name, part in self._content.items() if name not in of_measurement}

    def seed(self, *purpose: str | int) -> int:
        """A seed for one use within this trial, the same whatever is measured."""
        return derive_seed(self.study_seed, self.network_id, *purpose)


def plan(config: StudyConfig) -> list[TrialSpec]:
    """The trials of a study, seeds outermost, so that a stopped study is balanced.

    Raises:
        ConfigError: two entries of `models` describe the same trial.
    """
    trials: dict[str, TrialSpec] = {}
    designs = [model.design or config.design for model in config.models]
    points = [design_points(design, config.seed) for design in designs]
    for seed_index in range(max(design.num_seeds for design in designs)):
        for model, design, of_design in zip(config.models, designs, points, strict=True):
            for learning_rate, batch_size in of_design if seed_index < design.num_seeds else ():
                spec = TrialSpec(
                    study_seed=config.seed,
                    data=config.data,
                    architecture=model.architecture,
                    family=model.family,
                    options=model.options,
                    training=model.training or config.training,
                    measurement=config.measurement,
                    learning_rate=learning_rate,
                    batch_size=batch_size,
                    seed_index=seed_index,
                )
                spec = with_code(spec, config.plugin_code)
                if spec.trial_id in trials:
                    raise ConfigError(
                        f"two entries of models describe the same trial: {model.architecture} "
                        f"with options {model.options or '{}'}, learning rate {learning_rate:g}, "
                        f"batch size {batch_size}; remove one of them"
                    )
                trials[spec.trial_id] = spec
    return list(trials.values())


def design_points(design: Design, seed: int) -> list[tuple[float, int]]:
    """The (learning rate, batch size) points of a design, learning rates to 6 digits."""
    if isinstance(design, GridDesign):
        return list(itertools.product(design.learning_rate, design.batch_size))
    from scipy.stats import qmc

    engine = qmc.Sobol(d=2, scramble=True, rng=np.random.default_rng(derive_seed(seed, "design")))
    # Sobol's balance needs a power of two; a prefix of such a design is still a design.
    unit = engine.random_base2(int(np.ceil(np.log2(max(design.num_points, 2)))))
    rates, sizes = (
        np.exp(np.log(span.low) + position * (np.log(span.high) - np.log(span.low))).tolist()
        for span, position in zip(
            (design.learning_rate, design.batch_size), unit[: design.num_points].T, strict=True
        )
    )
    rates = [float(f"{rate:.6g}") for rate in rates]
    return list(zip(rates, [max(1, round(size)) for size in sizes], strict=True))
