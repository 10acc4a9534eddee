"""Corruptions: what each does to an image, in closed form or by another library."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import nn

from flatscale.metrics import measure, metric_info
from flatscale.metrics.passes.corruptions import CORRUPTIONS

GREY = np.full((1, 100, 100), 0.4)
RNG = np.random.default_rng(0)
COLOURED = RNG.random((3, 12, 8))


# Read from github.com/hendrycks/robustness on 2026-11-21: ImageNet-C/create_c/make_cifar_c.py
# (commit ca36008) and ImageNet-C/imagenet_c/imagenet_c/corruptions.py (commit 20caed9); the second
# list is also that of the package imagecorruptions 1.1.2.
PUBLISHED = {
    "gaussian_noise": ([0.04, 0.06, 0.08, 0.09, 0.10], [0.08, 0.12, 0.18, 0.26, 0.38]),
    "shot_noise": ([500, 250, 100, 75, 50], [60, 25, 12, 5, 3]),
    "impulse_noise": ([0.01, 0.02, 0.03, 0.05, 0.07], [0.03, 0.06, 0.09, 0.17, 0.27]),
    "gaussian_blur": ([0.4, 0.6, 0.7, 0.8, 1], [1, 2, 3, 4, 6]),
    "brightness": ([0.05, 0.1, 0.15, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]),
    "contrast": ([0.75, 0.5, 0.4, 0.3, 0.15], [0.4, 0.3, 0.2, 0.1, 0.05]),
    "pixelate": ([0.95, 0.9, 0.85, 0.75, 0.65], [0.6, 0.5, 0.4, 0.3, 0.25]),
    "jpeg": ([80, 65, 58, 50, 40], [25, 18, 15, 10, 7]),
}


def test_the_constants_are_the_published_ones():
    assert set(PUBLISHED) == set(CORRUPTIONS)
    for kind, known in CORRUPTIONS.items():
        found = tuple(list(known.constants[sizes]) for sizes in ("cifar", "imagenet"))
        assert found == PUBLISHED[kind], kind


def changed(kind, image, severity, constants="cifar"):
    known = CORRUPTIONS[kind]
    constant = known.constants[constants][severity - 1]
    return constant, known.function(image, constant, np.random.default_rng(1))


def test_noise_has_the_moments_of_its_distribution():
    scale, noisy = changed("gaussian_noise", GREY, 3)
    assert stats.kstest((noisy - 0.4).ravel() / scale, "norm").pvalue > 0.01
    photons, noisy = changed("shot_noise", GREY, 5)
    assert noisy.mean() == pytest.approx(0.4, abs=0.005)
    assert noisy.var() == pytest.approx(0.4 / photons, rel=0.06)
    share, noisy = changed("impulse_noise", GREY, 5, "imagenet")
    assert (noisy != GREY).mean() == pytest.approx(share, abs=0.02)
    assert (noisy == 1).mean() == pytest.approx(share / 2, abs=0.02)
    assert set(np.unique(noisy)) == {0.0, 0.4, 1.0}


def test_a_blurred_dot_is_a_gaussian():
    dot = np.zeros((2, 31, 31))
    dot[0, 15, 15] = 1.0
    sigma, blurred = changed("gaussian_blur", dot, 2, "imagenet")
    bell = np.exp(-0.5 * (np.arange(-15, 16) / sigma) ** 2) * (abs(np.arange(-15, 16)) <= 4 * sigma)
    np.testing.assert_allclose(blurred[0], np.outer(bell, bell) / bell.sum() ** 2, atol=1e-12)
    assert not blurred[1].any()


def test_brightness_raises_the_value_of_hsv():
    image = COLOURED.copy()
    image[:, 0, 0] = 0.0
    more, bright = changed("brightness", image, 4)
    for row, column in np.ndindex(12, 8):
        h, s, v = colorsys.rgb_to_hsv(*image[:, row, column])
        expected = colorsys.hsv_to_rgb(h, s, min(v + more, 1.0))
        np.testing.assert_allclose(bright[:, row, column], expected, atol=1e-12)


def test_contrast_keeps_the_mean_and_shrinks_the_spread():
    share, flat = changed("contrast", COLOURED, 2)
    np.testing.assert_allclose(flat.mean(axis=(1, 2)), COLOURED.mean(axis=(1, 2)))
    np.testing.assert_allclose(flat.std(axis=(1, 2)), share * COLOURED.std(axis=(1, 2)))


def test_pixels_of_half_the_size_are_means_of_four():
    share, coarse = changed("pixelate", COLOURED, 2, "imagenet")
    assert share == 0.5
    means = COLOURED.reshape(3, 6, 2, 4, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(coarse, np.kron(means, np.ones((2, 2))), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_what_a_jpeg_file_holds(channels):
    image = COLOURED[:channels]
    quality, read = changed("jpeg", image, 4)
    file = io.BytesIO()
    shown = Image.fromarray(np.uint8(np.rint(255 * image.transpose(1, 2, 0))).squeeze())
    shown.save(file, "JPEG", quality=quality)
    expected = np.asarray(Image.open(file)).reshape(12, 8, channels).transpose(2, 0, 1) / 255
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_severities_go_further_and_further(kind, constants):
    ramp = np.linspace(0.2, 0.6, 64 * 64).reshape(1, 64, 64)
    image = ramp + 0.15 * (np.indices((64, 64)).sum(axis=0) % 2)
    away = [np.abs(changed(kind, image, s, constants)[1] - image).mean() for s in range(1, 6)]
    assert away[0] > 0
    assert away[-1] > away[0]
    # How a file or a grid of pixels meets this one pattern is no order.
    assert away == sorted(away) or kind in ("pixelate", "jpeg")


def test_accuracy_is_that_of_the_corrupted_images_and_the_same_for_every_network():
    torch.manual_seed(0)
    x, y = torch.rand(9, 1, 6, 6), torch.arange(9) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    options = {"severities": (2, 5), "noise_seed": 7}
    names = [f"{kind}_accuracy" for kind in CORRUPTIONS] + ["corruption_accuracy"]
    found = measure(model, (x, y), names, options=dict.fromkeys(names, options), test=(x, y))
    for kind, known in CORRUPTIONS.items():
        hits = np.zeros((9, 2))
        for place, severity in np.ndindex(9, 2):
            level = (2, 5)[severity]
            rng = np.random.default_rng((7, level, place))
            image = known.function(
                x[place].double().numpy(), known.constants["cifar"][level - 1], rng
            )
            seen = torch.from_numpy(image.clip(0, 1)).float()[None]
            hits[place, severity] = float(model(seen).argmax() == y[place])
        measured = found[f"{kind}_accuracy"]
        assert measured.value == pytest.approx(hits.mean())
        assert measured.std_error == pytest.approx(hits.mean(axis=1).std(ddof=1) / 3)
        assert measured.extras[kind] == pytest.approx(hits.mean(axis=0))
        assert measured.extras["severity"] == (2.0, 5.0)
        assert found["corruption_accuracy"].extras[kind] == measured.extras[kind]
    mean = np.mean([found[name].value for name in names[:-1]])
    assert found["corruption_accuracy"].value == pytest.approx(mean)


def test_what_cannot_be_corrupted_says_so():
    x, y = torch.rand(9, 6), torch.arange(9) % 3
    model = nn.Linear(6, 3)
    found = measure(model, (x, y), ["jpeg_accuracy", "shot_noise_accuracy"], test=(x, y))
    assert "jpeg is defined for images (channels, height, width)" in found["jpeg_accuracy"].reason
    assert found["shot_noise_accuracy"].value is not None
    found = measure(model, (x - 1, y), ["shot_noise_accuracy"], test=(x - 1, y))
    assert "outside the range" in found["shot_noise_accuracy"].reason
    assert metric_info("jpeg_accuracy").meaning.startswith("Share of the test set")
