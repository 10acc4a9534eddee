"""What happens over training, in sentences: before and after interpolation, and the two phases."""

from __future__ import annotations

import polars as pl

from flatscale.report.content.over_training import (
    ABOUT_INPUT,
    COMPRESSION,
    FALL,
    information_plane,
)
from flatscale.report.content.report_content import Content
from flatscale.report.words import printed

_BINS = (
    "What this can and cannot say. I(X; T) is the entropy of a layer's binned units, over the "
    "training points. Without bins, I(X; T) of a deterministic network with continuous activations "
    "is infinite where X is continuous, and log2 n for n points that a layer keeps apart, at every "
    "step of training. So the number is one of the bins: it falls where points cluster, as where "
    "tanh saturates; ReLU networks that generalize as well need not show it (Saxe et al. 2018; "
    "Goldfeld et al. 2019)."
)
_MOST = (
    "It is at most log2 n, which a wide layer reaches with almost any bins and then says nothing; "
    "the number of bins (num_bins) and their ends (low, high) decide. Plug-in entropies are too "
    "small where points are few beside the bins."
)
_RULE = (
    "The turning point of a network's layer is its snapshot with the largest I(X; T); what comes "
    f"after it is called compression where I(X; T) ends more than {FALL:.0%} of log2 n lower, and "
    "all is called fitting otherwise."
)
LIMITS = (_BINS, _MOST, _RULE)
"""What stands beside the information plane."""
_NAMED = 5


def training_sentence(content: Content) -> str:
    """How many snapshots there are, when networks knew their training set, and what followed."""
    snapshots = content.trajectories
    if snapshots.is_empty():
        return ""
    count = snapshots["label"].n_unique()
    most = snapshots.group_by("label").agg(pl.col("step").n_unique())["step"].to_list()
    says = (
        f"{printed.plural(count, 'network')} {'was' if count == 1 else 'were'} measured at up to "
        f"{max(most)} steps of training; the statistics use the last one only."
    )
    seen = content.interpolated.filter(pl.col("label").is_in(snapshots["label"].unique()))
    if seen.is_empty():
        return f"{says} None was seen to know its training set by heart."
    middle = _middle(seen["step"])
    return (
        f"{says} {seen.height} of {count} came to know their training set by heart, at step "
        f"{printed.count(round(middle))} in the median.{_since(content)}"
    )


def _since(content: Content) -> str:
    """The primary pair and the outcomes at interpolation and at the end, where training went on."""
    table = content.trajectories.join(
        content.interpolated.rename({"step": "moment"}), on="label", maintain_order="left"
    ).filter(pl.col("step") >= pl.col("moment"))
    ends = table.sort("step").group_by("label", "metric").agg(
        pl.col("value").first().alias("then"),
        pl.col("value").last().alias("now"),
        pl.col("step").n_unique().alias("snapshots"),
    )  # fmt: skip
    later = ends.filter(pl.col("snapshots") > 1)
    parts: list[str] = []
    for name in dict.fromkeys((*content.outcomes, *content.primary)):
        own = later.filter(metric=name)
        if own.height and len(parts) < _NAMED:
            then, now = (printed.number(_middle(own[part])) for part in ("then", "now"))
            parts.append(f"{name} {then} → {now}")
    if not parts:
        return ""
    networks = later["label"].n_unique()
    return (
        f" Medians from there to the end, over the {printed.plural(networks, 'network')} that "
        f"trained on: {', '.join(parts)}."
    )


def information_sentence(content: Content) -> str:
    """In how many networks each layer compresses, and how near it is to saturation."""
    plane = information_plane(content)
    if plane.is_empty():
        return ""
    parts = []
    for (layer,), own in plane.group_by("layer", maintain_order=True):
        compress = own.filter(phase=COMPRESSION)["label"].n_unique()
        last = own.group_by("label").agg(pl.col(ABOUT_INPUT).sort_by("step").last())
        share = _middle(last[ABOUT_INPUT]) / _middle(own["log2_n"])
        parts.append(
            f"{layer} in {compress} of {own['label'].n_unique()} networks (I(X; T) ends at "
            f"{share:.0%} of log2 n)"
        )
    return (
        f"By the rule below, layers compress after they have fitted: {printed.listed(parts, 12)}."
    )


def _middle(values: pl.Series) -> float:
    found = values.cast(pl.Float64).median()
    return found if isinstance(found, float) else float("nan")
