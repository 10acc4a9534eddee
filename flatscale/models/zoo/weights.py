"""Weights of networks that others trained: found, hashed, read without running anybody's code."""

from __future__ import annotations

import functools
import hashlib
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import safetensors.torch
import torch
from torch import Tensor, nn

from flatscale.errors import ModelError
from flatscale.extras import needs
from flatscale.models.pytorch_image_models import PREFIX, timm_module
from flatscale.study.pretrained import WeightsConfig

SAFE = "safetensors"
ENDINGS = (SAFE, "pth", "pt", "bin", "tar", "ckpt")
_HF_FILES = (f"model.{SAFE}", "pytorch_model.bin")
# Under which key a training script's checkpoint keeps the network, moving averages first.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_HUB_SECONDS = 4.0


def find_weights(folder: Path, name: str, tag: str = "") -> WeightsConfig:
    """A network's file in a folder: `<name>.<ending>`, or `<name>/model.safetensors`.

    Where there is none, the location is where it should be, and loading says so.
    """
    candidates = [folder / f"{name}.{ending}" for ending in ENDINGS]
    candidates += [folder / name / file for file in _HF_FILES]
    found = next((path for path in candidates if path.is_file()), candidates[0])
    return file_weights(found, tag or name)


def file_weights(path: Path, tag: str) -> WeightsConfig:
    """Weights in a file, with the hash of its content if it exists."""
    known = file_hash(path) if path.is_file() else None
    return WeightsConfig(source="file", location=str(path), tag=tag, content_hash=known)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def load_pretrained(model: nn.Module, architecture: str, weights: WeightsConfig) -> str | None:
    """Put weights into a network, in place; the hash of their file, None for seeded ones.

    Raises:
        ModelError: they are absent (offline, too), broken, or of another network.
    """
    if weights.source == "none":
        return None
    path = weights_path(weights)
    found = file_hash(path)
    if weights.content_hash not in (None, found):
        raise ModelError(
            f"{path} holds other weights than when the study was planned (hash {found}, then "
            f"{weights.content_hash}); plan the study again"
        )
    tensors = read_tensors(path)
    said = _fill(model, tensors)
    if said and architecture.startswith(PREFIX):
        said = _fill(model, _converted(model, architecture, tensors)) and said
    if said:
        raise ModelError(f"{path} does not fit {architecture!r}: {said}")
    return found


def weights_path(weights: WeightsConfig) -> Path:
    """The file of weights, fetched from the hub where they are there and a network is.

    Raises:
        ModelError: there is no such file, here or where it would have to be fetched from.
    """
    if weights.source == "file":
        path = Path(weights.location)
        if not path.is_file():
            raise ModelError(f"no weights at {path}")
        return path
    if not weights.location:
        raise ModelError("timm knows no place for these weights")
    try:
        return _from_hub(weights.location)
    except Exception as error:  # the hub's client raises dozens of classes, among them OSError
        said = " ".join(str(error).split())[:200]
        raise ModelError(
            f"the weights {weights.location} are neither in the local cache nor can they be "
            f"fetched: {said}"
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A network's tensors by name from a safetensors file or a torch file of tensors alone.

    Raises:
        ModelError: it cannot be read, holds other objects than tensors, or no network.
    """
    try:
        if path.suffix == f".{SAFE}":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises whatever a broken file leads it to
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} cannot be read as weights: {said}") from error
    key = next((k for k in _NESTED if isinstance(content, Mapping) and k in content), None)
    content = content if key is None else content[key]
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} must hold tensors by name; found {type(content).__name__}")
    tensors = {k.removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise ModelError(f"{path} holds no tensors by name; found {', '.join(list(content)[:5])}")
    return tensors


def _fill(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Load every tensor, in place; what did not fit, empty where all did."""
    expected = model.state_dict()
    for what, names in (
        ("it lacks", expected.keys() - tensors.keys()),
        ("the network has no", tensors.keys() - expected.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"{what} {min(names)!r}{more}"
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            found = tuple(tensors[name].shape)
            return f"{name!r} must be {tuple(tensor.shape)}, found {found}"
    model.load_state_dict(dict(tensors))
    return ""


def _converted(model: nn.Module, architecture: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Weights of an original release under timm's names, by the architecture's own conversion."""
    timm = timm_module()
    entry = timm.models.model_entrypoint(architecture.removeprefix(PREFIX))
    convert = getattr(sys.modules[entry.__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return convert(dict(tensors), model)
    except Exception:  # a conversion of weights that are not what it expects may raise anything
        return tensors


def _from_hub(location: str) -> Path:
    needs("timm", "huggingface_hub")
    if location.startswith(("http://", "https://")):
        timm_module()
        from timm.models._hub import check_cached_file, download_cached_file

        host = urlsplit(location).hostname or ""
        if not check_cached_file(location, check_hash=False) and not _reachable(host):
            raise OSError(f"{host} cannot be reached")
        return Path(download_cached_file(location, progress=False))
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, filename = location.partition(":")
    names = [filename] if filename else list(_HF_FILES)
    offline = not _reachable("huggingface.co")
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=offline))
        except LocalEntryNotFoundError:
            continue
        except EntryNotFoundError:
            if name == names[-1]:
                raise
    raise OSError("huggingface.co cannot be reached" if offline else "no file of weights there")


@functools.cache
def _reachable(host: str) -> bool:
    """Whether a server answers, asked once a process: the hub's own client waits far longer."""
    if getproxies():
        return True  # the proxy decides
    try:
        with socket.create_connection((host, 443), timeout=_HUB_SECONDS):
            return True
    except OSError:
        return False
