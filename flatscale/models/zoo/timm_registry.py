"""`timm`: the pretrained networks of timm's own registry, by patterns of names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import PositiveInt

from flatscale.errors import ModelError
from flatscale.extras import needs
from flatscale.models.pytorch_image_models import PREFIX, timm_module
from flatscale.models.zoo.entries import HUB, NONE, ZooEntry, matches, zoo_reader
from flatscale.models.zoo.weights import find_weights
from flatscale.study.pretrained import Preprocessing, WeightsConfig

Patterns = tuple[str, ...]


@zoo_reader("timm")
def timm_registry(
    *,
    match: Patterns = ("*",),
    exclude: Patterns = (),
    max_input_size: PositiveInt | None = None,
    num_classes: PositiveInt = 1000,
    weights: str = HUB,
) -> Iterator[ZooEntry]:
    """timm's registry, in its order; without weights one network an architecture, else one a tag.

    Args:
        match: patterns of names, with or without the tag.
        exclude: of these, patterns of those to skip.
        max_input_size: skip networks made for larger images.
        num_classes: skip networks with another number of outputs.
        weights: `hub`, `none`, or a folder of safetensors or torch files named as the networks.
    """
    timm = timm_module()
    folder = None if weights in (HUB, NONE) else Path(weights)
    if folder is not None and not folder.is_dir():
        raise ModelError(f"models.zoo.weights: must be hub, none or a folder; found {weights!r}")
    names = [n for n in timm.list_models(pretrained=weights != NONE) if matches(n, match)]
    if not names:
        raise ModelError(f"models.zoo.match: no network of timm's fits {', '.join(match)}")
    for name in names:
        settings = timm.get_pretrained_cfg(name)
        architecture, _, tag = name.partition(".")
        known = {"architecture": PREFIX + architecture, "name": name}
        if settings is None:
            yield ZooEntry(
                **known, weights=WeightsConfig(source=NONE), skipped="timm knows no input"
            )
            continue
        fitting = timm_preprocessing(settings.to_dict())
        yield ZooEntry(
            **known,
            weights=_weights(name, tag, settings, folder, weights),
            preprocessing=fitting,
            skipped=_skipped(name, settings, fitting, exclude, max_input_size, num_classes),
        )


def timm_preprocessing(settings: dict[str, Any]) -> Preprocessing:
    """How timm itself prepares images for evaluation, by its data configuration."""
    needs("timm")
    timm_module()
    from timm.data import resolve_data_config

    found = resolve_data_config(pretrained_cfg=settings)
    known = {key: found[key] for key in Preprocessing.model_fields}
    return Preprocessing.model_validate(known)


def _weights(
    name: str, tag: str, settings: Any, folder: Path | None, weights: str
) -> WeightsConfig:
    if weights == NONE:
        return WeightsConfig(source=NONE)
    if folder is not None:
        return find_weights(folder, name, tag)
    place = settings.hf_hub_id or settings.url or ""
    if settings.hf_hub_id and settings.hf_hub_filename:
        place = f"{place}:{settings.hf_hub_filename}"
    return WeightsConfig(source=HUB, location=place, tag=tag)


def _skipped(
    name: str,
    settings: Any,
    fitting: Preprocessing,
    exclude: Patterns,
    max_input_size: int | None,
    num_classes: int,
) -> str | None:
    if matches(name, exclude):
        return "excluded by the study file"
    side = max(fitting.input_size[1:])
    if max_input_size is not None and side > max_input_size:
        return f"made for images of {side}, above max_input_size {max_input_size}"
    if settings.num_classes != num_classes:
        return f"has {settings.num_classes} outputs, not num_classes {num_classes}"
    return None
