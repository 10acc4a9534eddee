"""Holding a model still while it is measured, and giving it back exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def held_for_measurement(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, at least float32, no parameter asking for a gradient; then as it was.

    Weights of half precision are widened to float32 (exactly representable), because derivatives
    taken in half-precision arithmetic carry errors of percent; the original tensors are put back.
    Restored on exit, exceptions included: train/eval mode of every module, requires_grad and the
    storage of every parameter, the value of every buffer. Nothing in flatscale writes to a
    parameter: perturbed networks are evaluated functionally.
    """
    modes = {module: module.training for module in model.modules()}
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    buffers = [(owner, name, buffer) for owner, name, buffer in _buffers(model)]
    saved_buffers = [buffer.detach().clone() for _, _, buffer in buffers]
    narrow = [p for p in model.parameters() if p.dtype in _HALF]
    original = [parameter.data for parameter in narrow]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        # the fused encoder kernel would bypass every layer's forward
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        for parameter in flags:
            parameter.requires_grad_(False)
        for parameter in narrow:
            parameter.data = parameter.data.float()
        for owner, name, buffer in buffers:
            if buffer.dtype in _HALF:
                owner._buffers[name] = buffer.float()
        yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for parameter, data in zip(narrow, original, strict=True):
            parameter.data = data
        for (owner, name, buffer), saved in zip(buffers, saved_buffers, strict=True):
            owner._buffers[name] = buffer
            if not torch.equal(buffer, saved):
                with torch.no_grad():
                    buffer.copy_(saved)
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)
        for module, mode in modes.items():
            module.training = mode


def widened(model: nn.Module) -> bool:
    """Whether the model holds half-precision weights, measured in float32."""
    return any(parameter.dtype in _HALF for parameter in model.parameters())


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                yield module, name, buffer
