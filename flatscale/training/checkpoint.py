"""Weights of a network and the state of a training as safetensors: no code in them, no pickle.

A file's header, JSON under one key of its metadata, says which of the two it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from flatscale.errors import ModelError, StoreError
from flatscale.store.atomic import write_atomically

_METADATA_KEY = "flatscale"
_MODEL, _OPTIMIZER, _GROUP, _AVERAGE = "model.", "optimizer.", "group.", "average."


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
    _write_tensors(path, _model_tensors(model), {"kind": "weights", "facts": dict(metadata or {})})


def load_weights(path: Path, model: nn.Module) -> dict[str, Any]:
    """Read weights into a network of the same architecture, in place; returns the metadata.

    Raises:
        StoreError: the file is missing, cut short or none of ours.
        ModelError: its tensors are not those of the network, which is left as it was.
    """
    tensors, header = _read_tensors(path, kind="weights")
    _fill_model(model, tensors, str(path))
    return dict(header.get("facts", {}))


def weights_facts(path: Path) -> dict[str, Any]:
    """What `save_weights` was told to keep beside the weights.

    Raises:
        StoreError: the file is missing, cut short or none of ours.
    """
    return dict(_read_tensors(path, kind="weights")[1].get("facts", {}))


def weights_to_bytes(model: nn.Module) -> bytes:
    """All parameters and buffers as one safetensors buffer.

    Raises:
        ModelError: the network's state holds something that is not a tensor.
    """
    return safetensors.torch.save(_model_tensors(model))


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
    _fill_model(model, tensors, "the buffer of weights")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a saved training stood: optimizer steps taken, (step, loss) evaluations.

    The first are of the training set, the others of the images held out.
    """

    step: int
    history: tuple[tuple[int, float], ...]
    held_out_history: tuple[tuple[int, float], ...] = ()


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    history: Sequence[tuple[int, float]],
    *,
    settings: Mapping[str, Any] | None = None,
    held_out_history: Sequence[tuple[int, float]] = (),
    average: nn.Module | None = None,
) -> None:
    """Write the state of a training, atomically.

    Args:
        path: the file.
        model: the network.
        optimizer: its optimizer; tensors of its state and JSON-able constants are kept.
        step: optimizer steps taken.
        history: evaluations so far.
        settings: JSON-able facts that a training resuming from the file must share.
        held_out_history: evaluations on held-out images so far.
        average: the average of its weights, if there is one.

    Raises:
        ModelError: the network's or optimizer's state cannot be saved.
        StoreError: the file cannot be written; an old one is untouched.
    """
    tensors = {_MODEL + name: tensor for name, tensor in _model_tensors(model).items()}
    if average is not None:
        tensors |= {_AVERAGE + name: t for name, t in _model_tensors(average).items()}
    state = optimizer.state_dict()
    constants: dict[str, dict[str, Any]] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}.{name}"] = _copy_on_cpu(value)
            elif value is None or isinstance(value, bool | int | float | str):
                constants.setdefault(str(index), {})[name] = value
            else:
                raise ModelError(
                    f"cannot save {type(optimizer).__name__}: its state {name!r} is a "
                    f"{type(value).__name__}"
                )
    groups = [dict(group) for group in state["param_groups"]]
    for index, group in enumerate(groups):
        for name in [name for name, value in group.items() if isinstance(value, Tensor)]:
            tensors[f"{_GROUP}{index}.{name}"] = _copy_on_cpu(group.pop(name))
    header = {
        "kind": "checkpoint",
        "step": step,
        "history": [list(entry) for entry in history],
        "held_out_history": [list(entry) for entry in held_out_history],
        "settings": dict(settings or {}),
        "param_groups": groups,
        "constants": constants,
    }
    _write_tensors(path, tensors, header)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    settings: Mapping[str, Any] | None = None,
    average: nn.Module | None = None,
) -> Checkpoint:
    """Put a saved training back into a network and its optimizer, in place.

    Args:
        path: the file.
        model: a network of the same architecture.
        optimizer: an optimizer of the same kind over its parameters.
        settings: what the file's settings must be; None takes any.
        average: where the average of the weights goes, if there is one.

    Raises:
        StoreError: the file is missing, cut short, none of ours, or of a training with other
            settings.
        ModelError: it does not fit the network, which is left as it was.
    """
    tensors, header = _read_tensors(path, kind="checkpoint")
    weights, averaged = (
        {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
        for part in (_MODEL, _AVERAGE)
    )
    _check_fit(model.state_dict(), weights, str(path), type(model).__name__)
    try:
        for name, wanted in (settings or {}).items():
            if (found := header["settings"].get(name)) != wanted:
                raise StoreError(
                    f"{path} is the checkpoint of another training: its {name} is {found!r}, this "
                    f"one's is {wanted!r}; delete the file to start afresh"
                )
        checkpoint = Checkpoint(
            step=int(header["step"]),
            history=_evaluations(header["history"]),
            held_out_history=_evaluations(header.get("held_out_history", [])),
        )
        # The optimizer's state by parameter index, as torch numbers it.
        slots = {int(index): dict(values) for index, values in header["constants"].items()}
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                index, _, slot = name.removeprefix(_OPTIMIZER).partition(".")
                slots.setdefault(int(index), {})[slot] = tensor
            elif name.startswith(_GROUP):
                index, _, slot = name.removeprefix(_GROUP).partition(".")
                header["param_groups"][int(index)][slot] = tensor
        optimizer.load_state_dict({"state": slots, "param_groups": header["param_groups"]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{path} is not a checkpoint of {type(optimizer).__name__} over this network: {error}"
        ) from error
    if average is not None:
        _fill_model(average, averaged, str(path))
    _fill_model(model, weights, str(path))
    return checkpoint


def _evaluations(entries: Sequence[Sequence[Any]]) -> tuple[tuple[int, float], ...]:
    return tuple((int(step), float(loss)) for step, loss in entries)


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network as contiguous CPU copies, tied tensors once under each name."""
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(
                f"cannot save {type(model).__name__}: its state {name!r} is a "
                f"{type(value).__name__}, only tensors can be saved"
            )
    return {name: _copy_on_cpu(value) for name, value in state.items()}


def _copy_on_cpu(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares memory with nothing, as safetensors demands."""
    return torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)


def _fill_model(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors into a network after checking every name, shape and type."""
    _check_fit(model.state_dict(), tensors, where, type(model).__name__)
    model.load_state_dict(dict(tensors))


def _check_fit(
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


def _write_tensors(path: Path, tensors: dict[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors and a JSON header to one safetensors file, atomically."""
    try:
        content = safetensors.torch.save(tensors, {_METADATA_KEY: json.dumps(header)})
        write_atomically(path, content)
    except (OSError, safetensors.SafetensorError) as error:
        raise StoreError(f"cannot write {path}: {error}") from error


def _read_tensors(path: Path, *, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file written by `_write_tensors`, checked to be of this kind."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
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
