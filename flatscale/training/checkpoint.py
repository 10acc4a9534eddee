"""The state of a training at a step: network, optimizer, history. Safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flatscale.errors import ModelError, StoreError
from flatscale.training.weights import (
    check_fit,
    fill_model,
    model_tensors,
    own_copy,
    read_tensors,
    write_tensors,
)

_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a saved training stood: optimizer steps taken, (step, training loss) evaluations."""

    step: int
    history: tuple[tuple[int, float], ...]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    history: Sequence[tuple[int, float]],
    *,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the state of a training, atomically.

    Args:
        path: the file.
        model: the network.
        optimizer: its optimizer; tensors of its state and JSON-able constants are kept.
        step: optimizer steps taken.
        history: evaluations so far.
        settings: JSON-able facts that a training resuming from the file must share.

    Raises:
        ModelError: the network's or optimizer's state cannot be saved.
        StoreError: the file cannot be written; an old one is untouched.
    """
    tensors = {_MODEL + name: tensor for name, tensor in model_tensors(model).items()}
    state = optimizer.state_dict()
    constants: dict[str, dict[str, Any]] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}.{name}"] = own_copy(value)
            elif value is None or isinstance(value, bool | int | float | str):
                constants.setdefault(str(index), {})[name] = value
            else:
                raise ModelError(
                    f"cannot save {type(optimizer).__name__}: its state {name!r} is a "
                    f"{type(value).__name__}"
                )
    header = {
        "kind": "checkpoint",
        "step": step,
        "history": [list(entry) for entry in history],
        "settings": dict(settings or {}),
        "param_groups": state["param_groups"],
        "constants": constants,
    }
    write_tensors(path, tensors, header)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    settings: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Put a saved training back into a network and its optimizer, in place.

    Args:
        path: the file.
        model: a network of the same architecture.
        optimizer: an optimizer of the same kind over its parameters.
        settings: what the file's settings must be; None takes any.

    Raises:
        StoreError: the file is missing, cut short, none of ours, or of a training with other
            settings.
        ModelError: it does not fit the network, which is left as it was.
    """
    tensors, header = read_tensors(path, kind="checkpoint")
    weights = {
        name.removeprefix(_MODEL): tensor
        for name, tensor in tensors.items()
        if name.startswith(_MODEL)
    }
    check_fit(model.state_dict(), weights, str(path), type(model).__name__)
    try:
        _check_settings(path, settings, header["settings"])
        checkpoint = Checkpoint(
            step=int(header["step"]),
            history=tuple((int(step), float(loss)) for step, loss in header["history"]),
        )
        optimizer.load_state_dict(
            {"state": _slots(tensors, header), "param_groups": header["param_groups"]}
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{path} is not a checkpoint of {type(optimizer).__name__} over this network: {error}"
        ) from error
    fill_model(model, weights, str(path))
    return checkpoint


def _slots(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The optimizer's state by parameter index, as torch numbers it."""
    slots: dict[int, dict[str, Any]] = {
        int(index): dict(values) for index, values in header["constants"].items()
    }
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, _, slot = name.removeprefix(_OPTIMIZER).partition(".")
            slots.setdefault(int(index), {})[slot] = tensor
    return slots


def _check_settings(path: Path, wanted: Mapping[str, Any] | None, found: Mapping[str, Any]) -> None:
    if wanted is None:
        return
    different = [name for name in wanted if found.get(name) != wanted[name]]
    if different:
        name = different[0]
        raise StoreError(
            f"{path} is the checkpoint of another training: its {name} is {found.get(name)!r}, "
            f"this one's is {wanted[name]!r}; delete the file to start afresh"
        )
