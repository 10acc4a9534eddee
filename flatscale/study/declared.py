"""What a study declares of its analysis before its results are seen."""

from __future__ import annotations

from pydantic import Field

from flatscale.study.parts import Part


class AnalysisConfig(Part):
    """What the report concludes about, declared before the results are seen."""

    primary: tuple[str, str] = ("sharpness", "mls")
    """The one pair (x, y) that is not corrected for multiple tests."""
    log: tuple[str, ...] = ()
    """Columns analysed and plotted on a log scale."""
    outcomes: tuple[str, ...] = ("generalization_gap", "test_accuracy")
    """Metrics that the others are correlated with."""
    covariates: tuple[str, ...] = ()
    """Columns held fixed in partial correlations, such as `learning_rate` or `train_loss`."""
    variants: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Metric -> columns that measure the same with other options: further choices of the
    specification curve, beside the variants that metrics themselves declare."""
    num_resamples: int = Field(default=2_000, ge=100)
    """Bootstrap and permutation resamples."""
    require_interpolation: bool = False
    """Leave trials that hit the step or epoch limit out of the statistics (they are listed, with
    that reason)."""
