"""Lanczos' iteration with full reorthogonalization, for a batch of symmetric matrices at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Krylov:
    """What is known of the matrices after so many steps: A Q = Q T + residual, T tridiagonal.

    Attributes:
        basis: orthonormal columns of Q, as rows (B, S, N).
        diagonal, off_diagonal: of T (B, S) and (B, S - 1).
        residual_norm: what the next vector's length is; zero where the space is exhausted (B,).
    """

    basis: Tensor
    diagonal: Tensor
    off_diagonal: Tensor
    residual_norm: Tensor

    @property
    def num_steps(self) -> int:
        return self.diagonal.shape[1]

    def eigenpairs(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (B, S) and eigenvectors (B, S, S) of T, ascending; their Ritz values."""
        matrix = torch.diag_embed(self.diagonal)
        if self.num_steps > 1:
            matrix = matrix + torch.diag_embed(self.off_diagonal, 1)
            matrix = matrix + torch.diag_embed(self.off_diagonal, -1)
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor) -> Iterator[Krylov]:
    """The state after every step, for ever: the caller knows when to stop.

    Args:
        product: v (B, N) to A v (B, N), A symmetric, one a row; in float64.
        start: (B, N), any length.
    """
    basis, diagonal, off = unit(start)[:, None], *start.new_empty(2, len(start), 1)
    for count in itertools.count(1):
        earlier, newest = basis[:, :count], basis[:, count - 1]
        image = product(newest)
        diagonal[:, count - 1] = (image * newest).sum(dim=1)
        for _ in range(2):  # twice is enough (Parlett 1998)
            along = torch.bmm(earlier, image[:, :, None])
            image = image - torch.bmm(along.mT, earlier)[:, 0]
        length = image.norm(dim=1)
        yield Krylov(
            basis=earlier,
            diagonal=diagonal[:, :count],
            off_diagonal=off[:, : count - 1],
            residual_norm=length,
        )
        if count == basis.shape[1]:  # room for as many vectors again
            basis, diagonal, off = (
                torch.cat([kept, torch.empty_like(kept)], dim=1) for kept in (basis, diagonal, off)
            )
        off[:, count - 1] = length
        basis[:, count] = unit(image)


def unit(v: Tensor) -> Tensor:
    """Rows of length one."""
    return v / v.norm(dim=1, keepdim=True).clamp(min=1e-300)
