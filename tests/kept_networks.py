"""A folder of networks that others trained: their table, their weights, images for a probe."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.torch
from PIL import Image

from flatscale.models import build_model


def write_zoo(
    root: Path, widths: Sequence[int], *, num_images: int, absent: Sequence[int] = (), **more: Any
) -> dict[str, Any]:
    """Write grey 8x8 images of two classes, an MLP of each width, and `zoo.csv`, which lists them.

    Args:
        root: the folder.
        widths: of the networks.
        num_images: in `test-0.parquet`, with the classes in turns.
        absent: widths that the table lists without weights.
        more: columns of the table, a value a network.

    Returns:
        The parts `data` and `models` of a study file.
    """
    rng, images = np.random.default_rng(0), []
    for _ in range(num_images):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    data = pa.table({"image": images, "label": [i % 2 for i in range(num_images)]})
    pq.write_table(data, root / "test-0.parquet")
    listed = (*widths, *absent)
    for width in widths:
        keep_network(root, width)
    columns = {
        "path": [f"{width}.safetensors" for width in listed],
        "architecture": ["mlp"] * len(listed),
        "options": [json.dumps({"width": width}) for width in listed],
        **more,
    }
    pl.DataFrame(columns).write_csv(root / "zoo.csv")
    return {
        "data": {"source": "parquet", "path": str(root)},
        "models": {"zoo": {"source": "folder", "path": str(root), "table": "zoo.csv"}},
    }


def keep_network(root: Path, width: int) -> None:
    """Write the weights of the network of a width."""
    model = build_model("mlp", (1, 8, 8), 2, {"width": width}, seed=width)
    safetensors.torch.save_file(model.state_dict(), root / f"{width}.safetensors")
