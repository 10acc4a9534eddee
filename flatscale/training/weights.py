"""A network's weights as safetensors: no code in them, every tensor under its own name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from flatscale.errors import ModelError, StoreError
from flatscale.store.atomic import write_atomically

METADATA_KEY = "flatscale"


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, Any] | None = None) -> None:
    """Write all parameters and buffers, atomically.

    Args:
        path: the file.
        model: the network, on any device; shared and non-contiguous tensors are written out whole.
        metadata: JSON-able facts to keep beside them.

    Raises:
        ModelError: the network's state holds something that is not a tensor.
        StoreError: the file cannot be written; an old one is untouched.
    """
    write_tensors(path, model_tensors(model), {"kind": "weights", "facts": dict(metadata or {})})


def load_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Read weights into a network of the same architecture, in place; returns the metadata.

    Raises:
        StoreError: the file is missing, cut short or none of ours.
        ModelError: its tensors are not those of the network, which is left as it was.
    """
    tensors, header = read_tensors(path, kind="weights")
    fill_model(model, tensors, str(path))
    return dict(header.get("facts", {}))


def weights_to_bytes(model: nn.Module) -> bytes:
    """All parameters and buffers as one safetensors buffer.

    Raises:
        ModelError: the network's state holds something that is not a tensor.
    """
    return safetensors.torch.save(model_tensors(model))


def weights_from_bytes(content: bytes, model: nn.Module) -> None:
    """Read what `weights_to_bytes` gave into a network of the same architecture, in place.

    Raises:
        StoreError: the buffer is no safetensors.
        ModelError: its tensors are not those of the network, which is left as it was.
    """
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise StoreError(f"a buffer of weights is broken: {error}") from error
    fill_model(model, tensors, "the buffer of weights")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network as contiguous CPU copies, tied tensors once under each name."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"cannot save {type(model).__name__}: its state {name!r} is a "
                f"{type(value).__name__}, only tensors can be saved"
            )
    return {name: own_copy(value) for name, value in state.items()}


def own_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing, as safetensors demands."""
    return torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)


def fill_model(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a network after checking every name, shape and type."""
    check_fit(model.state_dict(), tensors, where, type(model).__name__)
    model.load_state_dict(dict(tensors))


def check_fit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str, owner: str
) -> None:
    """Raise ModelError unless two sets of tensors agree in names, shapes and types."""
    if missing := sorted(set(expected) - set(found)):
        raise ModelError(f"{where} does not fit {owner}: it has no {missing[0]!r}")
    if unknown := sorted(set(found) - set(expected)):
        raise ModelError(f"{where} does not fit {owner}, which has no {unknown[0]!r}")
    for name, tensor in expected.items():
        other = found[name]
        if (other.shape, other.dtype) != (tensor.shape, tensor.dtype):
            raise ModelError(
                f"{where} does not fit {owner}: {name!r} must be {tuple(tensor.shape)} "
                f"{tensor.dtype}, found {tuple(other.shape)} {other.dtype}"
            )


def write_tensors(path: Path, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one safetensors file, atomically."""
    try:
        content = safetensors.torch.save(tensors, {METADATA_KEY: json.dumps(header)})
        write_atomically(path, content)
    except (OSError, safetensors.SafetensorError) as error:
        raise StoreError(f"cannot write {path}: {error}") from error


def read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file written by `write_tensors`, checked to be of this kind."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(text) if text is not None else None
    except (OSError, safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise StoreError(
            f"cannot read {path}: {error}; it is missing, cut short or not a safetensors file"
        ) from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        found = repr(header.get("kind")) if isinstance(header, dict) else "none of flatscale's"
        raise StoreError(f"{path} must be a flatscale {kind} file; found {found}")
    return tensors, header
