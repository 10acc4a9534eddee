"""Random perturbations of the weights: the same for a point wherever it is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


def draw_seed(seed: int, *labels: int) -> int:
    """A 64-bit generator seed of one draw, from the pass's seed and the draw's labels."""
    entropy = [seed, *labels]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def normals_of_points(
    indices: np.ndarray, shape: Sequence[int], dtype: torch.dtype, *labels: int
) -> Tensor:
    """Standard normals (B, *shape) on the CPU, a generator for every point of these indices."""
    rows = torch.empty(len(indices), *shape, dtype=dtype)
    for row, index in zip(rows, indices, strict=True):
        generator = torch.Generator().manual_seed(draw_seed(*labels, int(index)))
        torch.randn(tuple(shape), generator=generator, dtype=dtype, out=row)
    return rows


def standard_normal(parameters: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """z ~ N(0, I), one entry per parameter entry, drawn on the CPU so that devices agree."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        for name, p in parameters.items()
    }
