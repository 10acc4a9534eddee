"""Holding a model still while it is measured, and giving it back exactly as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_HALF = (torch.bfloat16, torch.float16)
_TABLES = frozenset((*nn.Module().__dict__, "forward"))
"""Attributes in which torch keeps parameters, buffers, children and hooks, or a pass its own."""


@contextmanager
def held_for_measurement(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, at least float32, no parameter asking for a gradient; then as it was.

    Weights of half precision are widened to float32 (exactly representable), because derivatives
    taken in half-precision arithmetic carry errors of percent; the original tensors are put back.
    What the model reads is copied, so that it may change its input in place, and every forward pass
    starts from the same attributes: what a module kept from the last one belongs to other weights.

    Restored on exit, exceptions included: train/eval mode of every module, requires_grad and the
    storage of every parameter, the value of every buffer, every other attribute. Nothing in
    flatscale writes to a parameter: perturbed networks are evaluated functionally.
    """
    modules = list(model.modules())
    with ExitStack() as undo:
        for module in modules:
            undo.callback(setattr, module, "training", module.training)
        for module in modules:
            if _can_change(module):
                undo.callback(_Attributes(module).restore)
            if module._parameters:
                undo.callback(_restore_parameters, module, dict(module._parameters))
            if module._buffers:
                buffers = dict(module._buffers)
                values = {n: b.detach().clone() for n, b in buffers.items() if b is not None}
                undo.callback(_restore_buffers, module, buffers, values)
        undo.callback(
            torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled()
        )
        # the fused encoder kernel would bypass every layer's forward
        torch.backends.mha.set_fastpath_enabled(False)
        undo.enter_context(torch.inference_mode(False))
        if any(_is_compiled(module) for module in modules):
            # compiled code runs past the hooks of layers; the same modules run without it
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        undo.enter_context(warnings.catch_warnings())
        # vmap of an operation without a batching rule is slow, and right
        warnings.filterwarnings("ignore", message="There is a performance drop")
        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        # through train(), which makes networks that cache in eval mode drop what they hold
        model.train()
        model.eval()
        start = _start_from_the_same(modules)
        undo.callback(model.register_forward_pre_hook(start, prepend=True).remove)
        for parameter, flag in flags.items():
            undo.callback(parameter.requires_grad_, flag)
            parameter.requires_grad_(False)
            if parameter.dtype in _HALF:
                undo.callback(setattr, parameter, "data", parameter.data)
                parameter.data = parameter.data.float()
        for module in modules:
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.dtype in _HALF:
                    module._buffers[name] = buffer.float()
        yield model


def _is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile made the module, or compiled it in place."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


def widened(model: nn.Module) -> bool:
    """Whether the model holds half-precision weights, measured in float32."""
    return any(parameter.dtype in _HALF for parameter in model.parameters())


class _Attributes:
    """A module's attributes outside torch's own tables, and the contents of dicts among them."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = module.__dict__
        self._values = {k: v for k, v in module.__dict__.items() if k not in _TABLES}
        self._dicts = [(v, dict(v)) for v in self._values.values() if isinstance(v, dict)]

    def restore(self) -> None:
        """The same attributes again, none added since, and the dicts' contents."""
        for name in self._attributes.keys() - self._values.keys() - _TABLES:
            del self._attributes[name]
        self._attributes.update(self._values)
        for mapping, contents in self._dicts:
            mapping.clear()
            mapping.update(contents)


def _can_change(module: nn.Module) -> bool:
    """Whether a forward pass may change the module's attributes: torch's own do so in hooks."""
    own = not type(module).__module__.startswith("torch.nn.")
    return own or bool(module._forward_pre_hooks or module._forward_hooks)


def _start_from_the_same(modules: list[nn.Module]) -> Callable[..., tuple[Any, ...]]:
    """A hook before every forward pass: the attributes of this moment, and copies of the inputs."""
    kept = [_Attributes(module) for module in modules if _can_change(module)]

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        for attributes in kept:
            attributes.restore()
        return tuple(v.clone() if isinstance(v, Tensor) else v for v in inputs)

    return before


def _restore_buffers(
    module: nn.Module, before: dict[str, Tensor | None], values: dict[str, Tensor]
) -> None:
    module._buffers.clear()
    module._buffers.update(before)
    for name, value in values.items():
        buffer = before[name]
        if buffer is not None and not torch.equal(buffer, value):
            with torch.no_grad():
                buffer.copy_(value)


def _restore_parameters(module: nn.Module, before: dict[str, nn.Parameter | None]) -> None:
    module._parameters.clear()
    module._parameters.update(before)
