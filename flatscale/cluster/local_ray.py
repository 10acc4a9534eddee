"""A Ray of this run's own: on loopback alone, with a token of its own, gone when the run ends."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from flatscale.cluster.own_node import own_node
from flatscale.cluster.worker_forks import prepared_workers
from flatscale.errors import FlatscaleError

logger = logging.getLogger(__name__)

_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_TOKEN_FOLDER, _TOKEN_LOCK = "flatscale-token-", "held"
_AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@contextmanager
def local_ray(**options: Any) -> Iterator[None]:
    """Start Ray on this machine and shut it down after.

    None of its sockets can be reached from another machine, and none does anything for a client
    that does not know the run's token. What the user has set in the environment
    (`RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER`, `RAY_AUTH_*`) is left as it is.

    Args:
        options: further arguments of `ray.init`.

    Raises:
        FlatscaleError: Ray did not start, twice.
    """
    with _on_loopback(), _own_token(), prepared_workers() as workers:
        with own_node(workers):
            _start(options)
        try:
            _warn_if_reachable()
            yield
        finally:
            leave_ray()


def leave_ray() -> None:
    """Disconnect from Ray, with no garbage of its objects left for another thread to collect.

    A reference to a Ray object that some thread destroys while Ray shuts down ends the process.
    """
    gc.collect()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        gc.enable()


def _start(options: Mapping[str, Any]) -> None:
    """Start Ray; once more where it did not come up, as on a machine busy with other work."""
    for again in (True, False):
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
            )
            return
        except Exception as error:  # Ray raises no narrower class when a process of its is late
            ray.shutdown()
            said = " ".join(str(error).split())[:300] or type(error).__name__
            if not again:
                raise FlatscaleError(
                    f"Ray did not start on this machine: {said} The machine may be short of memory "
                    "or busy; nothing is lost, run the same command again"
                ) from error
            logger.warning("Ray did not start, trying once more: %s", said)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray servers started in here bind to 127.0.0.1.

    Ray binds to loopback where it starts no clusters of several machines, as by default on Windows
    and macOS; a node address of 127.0.0.1 alone is replaced by the machine's own. Its processes
    read the environment when they start, this one read it when it imported Ray.
    """
    if _LOOPBACK_ONLY in os.environ:
        yield
        return
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        with _environment({_LOOPBACK_ONLY: "0"}):
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _own_token() -> Iterator[None]:
    """A random token in a file that only this user can read, removed at the end.

    Ray switches token authentication on by itself for a cluster that `ray.init` starts, unless the
    environment says otherwise; without this it would take the one token of the user's home folder.
    """
    if any(name in os.environ for name in _AUTHENTICATION):
        yield
        return
    loader = AuthenticationTokenLoader.instance()
    try:
        _remove_tokens_of_killed_runs()
        with tempfile.TemporaryDirectory(prefix=_TOKEN_FOLDER) as folder, _held(Path(folder)):
            path = Path(folder) / "token"
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32), encoding="ascii")
            with _environment({"RAY_AUTH_TOKEN_PATH": str(path)}, also_restored=_AUTHENTICATION):
                loader.reset_cache()
                yield
    finally:
        # This process has read the mode and the token; it reads them again where it joins another.
        loader.reset_cache()
        Config.initialize("")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """A lock in the folder, which ends with this process, however it ends."""
    with (folder / ".new").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(lock.name).rename(folder / _TOKEN_LOCK)
        yield


def _remove_tokens_of_killed_runs() -> None:
    """Remove the folders of tokens whose drivers were killed: nobody holds their locks."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_TOKEN_FOLDER}*/{_TOKEN_LOCK}"):
        with suppress(OSError), lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)


@contextmanager
def _environment(changes: Mapping[str, str], also_restored: tuple[str, ...] = ()) -> Iterator[None]:
    """Environment variables set in here, and as they were after."""
    before = {name: os.environ.get(name) for name in {*changes, *also_restored}}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _warn_if_reachable() -> None:
    address = ray.get_runtime_context().gcs_address
    if not address.startswith(("127.", "[::1]", "localhost")):
        logger.warning("Ray listens on %s, beyond this machine, as the environment asks", address)
    if os.environ.get("RAY_AUTH_MODE") != "token":
        logger.warning("Ray asks for no token: whoever reaches %s can run code", address)
