"""Corrupted test images by kind and severity, after Hendrycks & Dietterich 2019.

A corruption is one decorated function (image (C, H, W) in [0, 1], its constant, a generator) ->
image; its metric follows (`catalog/under_attack.py`). The constants are those of the authors' code
(github.com/hendrycks/robustness, folder ImageNet-C) for CIFAR (32 x 32 pixels,
`create_c/make_cifar_c.py`) and for ImageNet (224 x 224, `imagenet_c/imagenet_c/corruptions.py`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from scipy import ndimage

from flatscale.errors import MetricError
from flatscale.metrics.passes.attacks import inputs_between
from flatscale.metrics.passes.predictions import Predictions, judged_rows
from flatscale.metrics.probe.observers import Arrays, Observer, Shard, required
from flatscale.metrics.registration import measurement_pass

Pixels = NDArray[np.float64]
Change = Callable[[Pixels, float, np.random.Generator], Pixels]
Severity = Annotated[int, Field(ge=1, le=5)]
Severities = Annotated[tuple[Severity, ...], Field(min_length=1)]
_MICROBATCH = 256


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        function: (image in [0, 1], constant, generator) -> image, clipped afterwards.
        constants: of severities 1..5, by `cifar` and `imagenet`.
        images_only: whether it needs (channels, height, width).
    """

    function: Change
    constants: Mapping[str, tuple[float, ...]]
    images_only: bool


@dataclass(frozen=True, kw_only=True)
class CorruptedPredictions:
    """Predictions at each severity asked for, in that order."""

    severities: tuple[int, ...]
    predictions: tuple[Predictions, ...]

    @property
    def correct(self) -> np.ndarray:
        """Correctness of every point at every severity (n, severities)."""
        return np.stack([found.class_hits for found in self.predictions], axis=1)


CORRUPTIONS: dict[str, Corruption] = {}


def corruption(
    name: str,
    *,
    cifar: tuple[float, ...],
    imagenet: tuple[float, ...],
    images_only: bool = True,
) -> Callable[[Change], Change]:
    """Register a kind of corruption and the pass that judges the network under it."""

    def add(function: Change) -> Change:
        constants = {"cifar": cifar, "imagenet": imagenet}
        CORRUPTIONS[name] = Corruption(
            function=function, constants=constants, images_only=images_only
        )
        _register_pass(name, (function.__doc__ or "").strip())
        return function

    return add


def pass_of(kind: str) -> str:
    """Name of the pass of a kind of corruption."""
    return f"{kind}_predictions"


def _register_pass(kind: str, meaning: str) -> None:
    def judge(
        observers: Mapping[str, Observer],
        seed: int,
        *,
        severities: Severities = (1, 2, 3, 4, 5),
        constants: Literal["cifar", "imagenet"] = "cifar",
        low: float = 0.0,
        high: float = 1.0,
        noise_seed: Annotated[int, Field(ge=0)] = 0,
    ) -> CorruptedPredictions:
        found = []
        for severity in severities:
            rows = required(observers, "test").gather(
                corrupted_rows,
                kind=kind,
                constant=CORRUPTIONS[kind].constants[constants][severity - 1],
                low=low,
                high=high,
                seeds=(noise_seed, severity),
            )
            found.append(Predictions.of(rows))
        return CorruptedPredictions(severities=tuple(severities), predictions=tuple(found))

    judge.__doc__ = f"""Predictions on corrupted test images: {meaning}

    Args:
        observers: the point sets.
        seed: not used: every network is judged on the same corrupted images.
        severities: 1 to 5.
        constants: what a severity means: cifar (images of about 32 pixels) or imagenet (224).
        low, high: the pixel values that are black and white; what leaves this range is clipped.
        noise_seed: of noise; each image draws its own.
    """
    judge.__qualname__ = f"{pass_of(kind)}"
    measurement_pass(pass_of(kind))(judge)


def corrupted_rows(
    shard: Shard,
    *,
    kind: str,
    constant: float,
    low: float,
    high: float,
    seeds: tuple[int, ...],
) -> Arrays:
    """Loss, correctness and number of outputs of every corrupted point.

    Raises:
        MetricError: the inputs are not what this corruption is defined for.
    """

    def compute(points: slice) -> Arrays:
        plain, y = shard.x[points], shard.y[points]
        pixels = (plain.double().cpu().numpy() - low) / (high - low)
        places = shard.indices[points]
        both = zip(pixels, places, strict=True)
        changed = np.stack([_corrupt(kind, *pair, constant, seeds) for pair in both])
        with torch.no_grad():
            logits = shard.logits(torch.from_numpy(low + (high - low) * changed).to(plain))
            return judged_rows(logits, shard.losses(logits, y), y)

    shard.logits(shard.x[:1])
    inputs_between(shard.x, low, high)
    if CORRUPTIONS[kind].images_only and shard.x.ndim != 4:
        raise MetricError(
            f"{kind} is defined for images (channels, height, width); found inputs of shape "
            f"{tuple(shard.x.shape[1:])}"
        )
    return shard.rows(compute, _MICROBATCH)


def _corrupt(
    kind: str, image: Pixels, place: int, constant: float, seeds: tuple[int, ...]
) -> Pixels:
    if not np.isfinite(image).all():
        return np.full_like(image, np.nan)
    rng = np.random.default_rng((*seeds, int(place)))
    return np.clip(CORRUPTIONS[kind].function(image, constant, rng), 0.0, 1.0)


@corruption(
    "gaussian_noise",
    cifar=(0.04, 0.06, 0.08, 0.09, 0.10),
    imagenet=(0.08, 0.12, 0.18, 0.26, 0.38),
    images_only=False,
)
def gaussian_noise(image: Pixels, scale: float, rng: np.random.Generator) -> Pixels:
    """x + c z, z ~ N(0, 1)."""
    return image + scale * rng.standard_normal(image.shape)


@corruption(
    "shot_noise",
    cifar=(500, 250, 100, 75, 50),
    imagenet=(60, 25, 12, 5, 3),
    images_only=False,
)
def shot_noise(image: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    """Poisson(c x) / c."""
    return rng.poisson(image * photons) / photons


@corruption(
    "impulse_noise",
    cifar=(0.01, 0.02, 0.03, 0.05, 0.07),
    imagenet=(0.03, 0.06, 0.09, 0.17, 0.27),
    images_only=False,
)
def impulse_noise(image: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """A share c of all values becomes 0 or 1, with equal chances."""
    hit, salt = rng.random(image.shape) <= share, rng.random(image.shape) <= 0.5
    return np.where(hit, salt.astype(float), image)


@corruption("gaussian_blur", cifar=(0.4, 0.6, 0.7, 0.8, 1.0), imagenet=(1, 2, 3, 4, 6))
def gaussian_blur(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Gaussian blur of standard deviation c pixels; the edge is repeated outside."""
    return ndimage.gaussian_filter(image, (0, sigma, sigma), mode="nearest")


@corruption("brightness", cifar=(0.05, 0.1, 0.15, 0.2, 0.3), imagenet=(0.1, 0.2, 0.3, 0.4, 0.5))
def brightness(image: Pixels, more: float, rng: np.random.Generator) -> Pixels:
    """The largest of each pixel's channels (V of HSV) rises by c; hue and saturation stay."""
    value = image.max(axis=0, keepdims=True)
    raised = np.clip(value + more, 0.0, 1.0)
    return np.where(value > 0, image * (raised / np.where(value > 0, value, 1.0)), raised)


@corruption("contrast", cifar=(0.75, 0.5, 0.4, 0.3, 0.15), imagenet=(0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(image: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Deviations from each channel's mean shrink to a share c."""
    means = image.mean(axis=(1, 2), keepdims=True)
    return means + share * (image - means)


@corruption("pixelate", cifar=(0.95, 0.9, 0.85, 0.75, 0.65), imagenet=(0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(image: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Averaged down to a share c of its sides and back, both by boxes."""
    height, width = image.shape[1:]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in image]
    box: Any = Image.Resampling.BOX
    return np.stack([np.asarray(p.resize(small, box).resize((width, height), box)) for p in planes])


@corruption("jpeg", cifar=(80, 65, 58, 50, 40), imagenet=(25, 18, 15, 10, 7))
def jpeg(image: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    """Written as 8-bit JPEG of quality c, grey or coloured.

    Raises:
        MetricError: an image with neither one nor three channels.
    """
    if len(image) not in (1, 3):
        raise MetricError(f"jpeg needs one or three channels; found {len(image)}")
    bytes_of = np.rint(255 * image).astype(np.uint8)
    shown = bytes_of[0] if len(image) == 1 else bytes_of.transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "JPEG", quality=int(quality))
    read = np.asarray(Image.open(file), dtype=np.float64) / 255
    return read[None] if read.ndim == 2 else read.transpose(2, 0, 1)
