"""Encoded images (PNG, JPEG, ...) to one uint8 array, each fault named by file and row."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flatscale.errors import DataError

_GREY_MODES = frozenset({"1", "L", "LA"})
_COLOUR_MODES = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"})


def decode_images(
    images: Iterable[tuple[str, bytes | Path]], num_images: int, image_size: int | None
) -> NDArray[np.uint8]:
    """Decode images one at a time into one array.

    Args:
        images: of each, in order, what names it in an error and its bytes or file.
        num_images: how many they are.
        image_size: height and width to resize to (bilinear, antialiased); None keeps the size,
            which must then be the same for all.

    Returns:
        (n, 1, height, width) when every image is grey, (n, 3, height, width) otherwise.

    Raises:
        DataError: an image that cannot be decoded, or one of another size than the first.
    """
    pixels: NDArray[np.uint8] | None = None
    first, all_grey = "", True
    for position, (where, content) in enumerate(images):
        decoded, is_grey = _decode(where, content, image_size)
        all_grey = all_grey and is_grey
        if pixels is None:
            pixels, first = np.empty((num_images, *decoded.shape), dtype=np.uint8), where
        if decoded.shape != pixels.shape[1:]:
            height, width = decoded.shape[1:]
            raise DataError(
                f"{where}: the image is {height}x{width}, but {first} is "
                f"{pixels.shape[2]}x{pixels.shape[3]}; set data.image_size to resize all of them"
            )
        pixels[position] = decoded
    if pixels is None:
        raise DataError("there is no image to decode")
    return pixels[:, :1] if all_grey else pixels


def _decode(
    where: str, content: bytes | Path, image_size: int | None
) -> tuple[NDArray[np.uint8], bool]:
    """One image as (3, height, width), and whether it is grey."""
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
            mode = opened.mode
            if mode not in _GREY_MODES | _COLOUR_MODES:
                raise DataError(
                    f"{where}: pixels of mode {mode!r} are not supported, only 8-bit grey or colour"
                )
            # Grey with an alpha channel drops the alpha, as colour does.
            pixels = (opened.convert("L") if mode in _GREY_MODES else opened).convert("RGB")
        if image_size is not None and pixels.size != (image_size, image_size):
            pixels = pixels.resize((image_size, image_size), Image.Resampling.BILINEAR)
    except DataError:
        raise
    except Exception as error:  # decoders meet broken bytes with errors of every kind
        raise DataError(f"{where}: the image cannot be decoded: {error}") from error
    return np.asarray(pixels).transpose(2, 0, 1), mode in _GREY_MODES
