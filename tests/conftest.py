"""What every test can use."""

from __future__ import annotations

import ast
import functools
import gc
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from flatscale.cli.commands import main
from flatscale.study.registry import Registry

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

# One thread a process: the tests' networks are small, and their processes share few cores.
torch.set_num_threads(1)


def _without_collection(parse: Any) -> Any:
    """ast.parse with garbage collection put off until it is done.

    Python 3.11 counts the depth of a syntax tree in one place for the whole process: a finalizer
    that parses (or imports) in the middle of ast.parse makes the outer call fail with SystemError,
    "AST constructor recursion depth mismatch" (CPython gh-106905). pytest and hypothesis parse
    every module under test.
    """

    @functools.wraps(parse)
    def parse_undisturbed(*args: Any, **kwargs: Any) -> Any:
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            return parse(*args, **kwargs)
        finally:
            if was_enabled:
                gc.enable()

    return parse_undisturbed


ast.parse = _without_collection(ast.parse)


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """Real CIFAR-10 images in the Hugging Face parquet layout, where they are at hand."""
    folder = SHARED / "cifar10"
    if not folder.is_dir():
        pytest.skip("CIFAR-10 is not beside the checkout (../shared/data/cifar10)")
    return folder


@pytest.fixture
def flatscale(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The `flatscale` command in this process: its status and words, as of a process of its own.

    A process would spend seconds importing what is imported here; that there is such a command is
    tested where a process matters.
    """

    def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        level = logging.getLogger("flatscale").level
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["flatscale", *arguments])
            patch.setattr(logging.root, "handlers", [])  # the command's own writes to stderr
            if cwd is not None:
                patch.chdir(cwd)
            with pytest.raises(SystemExit) as ended:
                main()
        logging.getLogger("flatscale").setLevel(level)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, ended.value.code or 0, said.out, said.err)

    return run


@pytest.fixture(autouse=True, scope="module")
def registrations_of_one_module() -> Iterator[None]:
    """What the plugins of a module's tests register is gone with its last test."""
    registries = [
        value
        for name, module in list(sys.modules.items())
        if name.startswith("flatscale.")
        for value in vars(module).values()
        if isinstance(value, Registry)
    ]
    before = [dict(registry) for registry in registries]
    yield
    for registry, known in zip(registries, before, strict=True):
        for name, entry in list(registry.items()):
            module = entry.function.__module__
            if name not in known and not module.startswith("flatscale."):
                del registry._entries[name]
                sys.modules.pop(module, None)
