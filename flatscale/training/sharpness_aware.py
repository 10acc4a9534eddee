"""SAM and ASAM: the step of any optimizer with the gradient at the worst weights near by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from flatscale.training.optimizers import optimizer

_Radius = Annotated[float, Field(gt=0)]


class SharpnessAware(torch.optim.Optimizer):
    """Descends with the gradient at w + rho T^2 g / ||T g||, then steps from w.

    Constants and state are those of the optimizer it is around: it keeps nothing from step to step.

    Args:
        base: takes the steps.
        rho: radius.
        scale: the diagonal of T for a parameter; None for the identity.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        rho: float,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(base.param_groups, base.defaults)
        self.base, self._rho, self._scale = base, rho, scale
        self.param_groups = base.param_groups

    def state_dict(self) -> dict[str, Any]:
        """The base's."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the base."""
        self.base.load_state_dict(state_dict)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """One step; `closure` computes loss and gradients. Returns the loss before it."""
        loss = torch.enable_grad()(closure)()
        moved = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        scales = [self._scale(p) if self._scale else torch.ones_like(p) for p in moved]
        scaled = [t * p.grad for t, p in zip(scales, moved, strict=True)]
        norm = torch.stack([part.norm() for part in scaled]).norm().clamp_min(1e-12)
        before = [p.clone() for p in moved]
        for p, t, part in zip(moved, scales, scaled, strict=True):
            p.add_(t * part, alpha=self._rho / norm.item())
        torch.enable_grad()(closure)()
        for p, old in zip(moved, before, strict=True):
            p.copy_(old)
        self.base.step()
        return loss


@optimizer("sam", closure=True, around=True)
def sam(base: torch.optim.Optimizer, *, rho: _Radius = 0.05) -> SharpnessAware:
    """Sharpness-aware minimization (Foret et al. 2021): w + rho g / ||g||."""
    return SharpnessAware(base, rho)


@optimizer("asam", closure=True, around=True)
def asam(
    base: torch.optim.Optimizer,
    *,
    rho: _Radius = 0.5,
    eta: Annotated[float, Field(ge=0)] = 0.01,
) -> SharpnessAware:
    """Adaptive SAM (Kwon et al. 2021), elementwise: T = |w| + eta for every parameter."""
    return SharpnessAware(base, rho, lambda parameter: parameter.abs() + eta)
