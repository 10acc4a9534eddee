"""torchvision and timm import here; a whole installation is left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flatscale.models import torchvision_ops


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter with warnings as errors."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_torchvision_imports_in_a_fresh_process_after_repeated_calls() -> None:
    out = run_python(
        "from flatscale.models import allow_torchvision_without_ops as allow\n"
        "allow(); allow()\n"
        "import torchvision.datasets, torchvision.transforms\n"
        "allow()\n"
        "print('ok')"
    )
    assert out.strip() == "ok"


@pytest.mark.parametrize("situation", ["native library loads", "already imported"])
def test_nothing_is_declared_where_nothing_is_missing(
    situation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared: list[object] = []
    monkeypatch.setattr(torchvision_ops, "_declared", declared)
    if situation == "already imported":
        monkeypatch.setitem(sys.modules, "torchvision", object())
        monkeypatch.setattr(torchvision_ops, "_native_library_loads", lambda: False)
    else:
        monkeypatch.delitem(sys.modules, "torchvision", raising=False)
        monkeypatch.setattr(torchvision_ops, "_native_library_loads", lambda: True)
    torchvision_ops.allow_torchvision_without_ops()
    assert declared == []
