"""Holding a model still while it is measured, and giving it back exactly as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_HALF = (torch.bfloat16, torch.float16)


@contextmanager
def held_for_measurement(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, at least float32, no parameter asking for a gradient; then as it was.

    Weights of half precision are widened to float32 (exactly representable), because derivatives
    taken in half-precision arithmetic carry errors of percent; the original tensors are put back.
    What the model reads is copied, so that it may change its input in place; its caches of tensors
    forget, because what they hold belongs to other weights.

    Restored on exit, exceptions included: train/eval mode of every module, requires_grad and the
    storage of every parameter, the value of every buffer, every other attribute. Nothing in
    flatscale writes to a parameter: perturbed networks are evaluated functionally.
    """
    with ExitStack() as undo:
        for module in model.modules():
            undo.callback(_restore_attributes, module, dict(module.__dict__), module.training)
            undo.callback(_restore_parameters, module, dict(module._parameters))
            undo.callback(_restore_buffers, module, _saved_buffers(module))
            _forget_caches(module)
        undo.callback(
            torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled()
        )
        # the fused encoder kernel would bypass every layer's forward
        torch.backends.mha.set_fastpath_enabled(False)
        undo.enter_context(torch.inference_mode(False))
        undo.enter_context(warnings.catch_warnings())
        # vmap of an operation without a batching rule is slow, and right
        warnings.filterwarnings("ignore", message="There is a performance drop")
        undo.callback(model.register_forward_pre_hook(_copy_inputs, prepend=True).remove)
        model.eval()
        for parameter in model.parameters():
            undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(False)
            if parameter.dtype in _HALF:
                undo.callback(_put_back, parameter, parameter.data)
                parameter.data = parameter.data.float()
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.dtype in _HALF:
                    module._buffers[name] = buffer.float()
        yield model


def widened(model: nn.Module) -> bool:
    """Whether the model holds half-precision weights, measured in float32."""
    return any(parameter.dtype in _HALF for parameter in model.parameters())


class _Forgetful(dict[Any, Any]):
    """A cache that never says it holds anything."""

    def __contains__(self, key: object) -> bool:
        return False

    def get(self, key: Any, default: Any = None) -> Any:
        return default


def _forget_caches(module: nn.Module) -> None:
    for name, value in module.__dict__.items():
        if "cache" in name and type(value) is dict:
            module.__dict__[name] = _Forgetful()


def _copy_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(v.clone() if isinstance(v, Tensor) else v for v in inputs)


def _saved_buffers(module: nn.Module) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    return {
        name: (buffer, None if buffer is None else buffer.detach().clone())
        for name, buffer in module._buffers.items()
    }


def _restore_buffers(
    module: nn.Module, saved: dict[str, tuple[Tensor | None, Tensor | None]]
) -> None:
    module._buffers.clear()
    for name, (buffer, value) in saved.items():
        module._buffers[name] = buffer
        if buffer is not None and value is not None and not torch.equal(buffer, value):
            with torch.no_grad():
                buffer.copy_(value)


def _restore_parameters(module: nn.Module, before: dict[str, nn.Parameter | None]) -> None:
    module._parameters.clear()
    module._parameters.update(before)


def _restore_attributes(module: nn.Module, before: dict[str, Any], training: bool) -> None:
    module.training = training
    for name in module.__dict__.keys() - before.keys():
        del module.__dict__[name]
    module.__dict__.update(before)


def _put_back(parameter: nn.Parameter, data: Tensor) -> None:
    parameter.data = data
