"""Lets torchvision be imported beside a torch build that its native library was not made for."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

_SCHEMAS = {
    name: f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms")
}
_lock = threading.Lock()
_declared: list[torch.library.Library] = []  # a Library takes its operators along when it is freed


def allow_torchvision_without_ops() -> None:
    """Declare the two operators torchvision's import asks for, if its native library cannot load.

    The published Linux wheel of torchvision is built for CUDA. Beside a CPU build of torch its
    library does not load, and `import torchvision` (so `import timm`) fails with "operator
    torchvision::nms does not exist". With the operators' schemas declared, transforms, datasets and
    every timm architecture work; calling the operators themselves (non-maximum suppression, for
    detection) still fails, with torch's own message. Where torchvision is whole, is already
    imported or is not installed, this does nothing. Call it before importing torchvision or timm.
    """
    with _lock:
        if _declared or "torchvision" in sys.modules or _native_library_loads():
            return
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _declared.append(library)
        logger.debug("torchvision's native library does not load here; declared %s", [*_SCHEMAS])


def _native_library_loads() -> bool:
    """Whether torchvision is absent, or its library loads (a second load is a no-op)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    folder = Path(spec.origin).parent
    paths = [folder / f"_C{suffix}" for suffix in (*EXTENSION_SUFFIXES, ".so", ".pyd")]
    try:
        torch.ops.load_library(next(str(path) for path in paths if path.is_file()))
    except (StopIteration, OSError):
        return False
    return True
