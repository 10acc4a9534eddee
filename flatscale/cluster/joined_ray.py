"""Joining a Ray that somebody else started: whether it is there, and has what a study needs.

Ray waits minutes for an address where nobody answers, and a worker that cannot import a plugin
fails its trial long after the start. Both are found out here, before work starts. The modules of
plugins travel with the run; everything else, flatscale itself included, must be on every node.
"""

from __future__ import annotations

import logging
import os
import platform
import socket
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import ray
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from flatscale import __version__
from flatscale.cluster.local_ray import leave_ray
from flatscale.errors import FlatscaleError
from flatscale.preflight import plugin_code
from flatscale.study.registry import import_plugins
from flatscale.study.schema import StudyConfig

_PATIENCE = 5.0
"""Seconds for a server to take a connection, and again for it to answer."""
_NODE_PATIENCE = 180.0
"""Seconds for a node to start a worker that imports torch."""
_FORMS = "give `auto` on a node of the cluster, its host:port (6379), or ray://host:port (10001)"
# A call that each kind of server knows; another kind says that it does not.
_CLUSTER, _CLIENT = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.RayletDriver/ClusterInfo",
)


@contextmanager
def joined_ray(address: str, config: StudyConfig) -> Iterator[None]:
    """Join a cluster, with the token, if any, of the environment, and leave it after.

    Raises:
        FlatscaleError: nobody answers there, or a node lacks what the study needs.
    """
    refuse_unreachable(address)
    # A submitted job has a runtime environment already, which brings what its user gave it.
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    sent = [] if in_job else plugin_files(config.plugins)
    modules = {"py_modules": [str(path) for path in sent], "excludes": ["__pycache__"]}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=modules if sent else None,
        )
        _refuse_unfit_nodes(config, sent)
        yield
    finally:
        leave_ray()


def refuse_unreachable(address: str) -> None:
    """Refuse an address where no Ray answers, in a few seconds.

    Raises:
        FlatscaleError: says what was found there, and what an address looks like.
    """
    client = address.startswith("ray://")
    where = address.removeprefix("ray://")
    if address == "auto":
        try:
            where = canonicalize_bootstrap_address_or_die("auto")
        except ConnectionError:
            raise FlatscaleError(f"no Ray runs on this machine (`auto`): {_FORMS}") from None
    try:
        parts = urlsplit(f"//{where}")
        host, port = parts.hostname, parts.port or (10001 if client else None)
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise FlatscaleError(f"{address!r} is no address of a Ray cluster: {_FORMS}")
    try:
        socket.create_connection((host, port), _PATIENCE).close()
    except OSError as error:
        raise FlatscaleError(
            f"cannot reach Ray at {address}: nobody answers on port {port} of {host} ({error}); "
            f"{_FORMS}"
        ) from None
    if os.environ.get("RAY_USE_TLS", "0") == "0":
        said = _what_answers(f"{host}:{port}", _CLIENT if client else _CLUSTER)
        if said is not None:
            raise FlatscaleError(f"cannot reach Ray at {address}: {said}; {_FORMS}")


def _what_answers(where: str, method: str) -> str | None:
    """What is wrong with the server at host:port; None where it is Ray's and knows the method."""
    with grpc.insecure_channel(where, (("grpc.enable_http_proxy", 0),)) as channel:
        try:
            channel.unary_unary(method)(b"", timeout=_PATIENCE)
        except grpc.RpcError as error:
            code = error.code()
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return "that is the port of another of its servers"
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return "what listens there is no Ray server (the port of a page, perhaps)"
    return None


def plugin_files(plugins: Iterable[str]) -> list[Path]:
    """The modules and packages that are sent to the workers: plugins, and what lies beside them.

    What a plugin has imported from its own folder goes with it. What is installed does not: it must
    be installed on every node.
    """
    roots = {_root(name) for name in plugins} - {None}
    found = set()
    for name, module in list(sys.modules.items()):
        path = _file(module)
        root = next((root for root in roots if root and path and root in path.parents), None)
        if path and root and name.partition(".")[0] != "flatscale" and not _installed(path):
            found.add(root / path.relative_to(root).parts[0])
    return sorted(path for path in found if path.is_dir() or path.suffix == ".py")


def _root(plugin: str) -> Path | None:
    """The folder that a plugin's outermost package or module lies in; None if it is installed."""
    path = _file(sys.modules[plugin])
    if path is None or _installed(path) or plugin.partition(".")[0] == "flatscale":
        return None
    depth = plugin.count(".") + (path.name == "__init__.py")
    return path.parents[depth]


def _file(module: Any) -> Path | None:
    """Where a module's source lies; None for those that only name a file, as some of torch's do."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and Path(file).is_file() else None


def _installed(path: Path) -> bool:
    places = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")}
    return not places.isdisjoint(path.parents)


def _what_a_node_has(plugins: tuple[str, ...], things: tuple[tuple[str, str], ...]) -> Any:
    """Version and plugin code of flatscale in this process, a worker's."""
    import_plugins(plugins)
    return __version__, plugin_code(things)


def _refuse_unfit_nodes(config: StudyConfig, sent: list[Path]) -> None:
    """Ask every node once whether it can import what trials need, all nodes at a time.

    Raises:
        FlatscaleError: names the nodes, what each lacks, and what each needs.
    """
    kinds = (key.partition(" ") for key in config.plugin_code)
    things = tuple((kind, name) for kind, _, name in kinds)
    task = ray.remote(num_cpus=0, max_retries=0)(_what_a_node_has)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=there).remote(config.plugins, things)] = node
    _, late = ray.wait(list(asked), num_returns=len(asked), timeout=_NODE_PATIENCE)
    faults = defaultdict(list)
    for answer, node in asked.items():
        said = f"no answer in {_NODE_PATIENCE:.0f} s" if answer in late else _fault(answer, config)
        if said is not None:
            faults[said].append(node["NodeManagerAddress"])
    if faults:
        lines = [f"{', '.join(sorted(set(nodes)))}: {said}" for said, nodes in faults.items()]
        names = ", ".join(path.name for path in sent) or "none"
        raise FlatscaleError(
            "\n  ".join(["nodes of the cluster lack what the study needs:", *lines])
            + f"\nEvery node needs Python {platform.python_version_tuple()[0]}."
            f"{platform.python_version_tuple()[1]}, flatscale {__version__}, and what the plugins "
            f"import; the plugins' own modules are sent along (here: {names})"
        )


def _fault(answer: Any, config: StudyConfig) -> str | None:
    """What is wrong with a node that answered; None if it has what is needed."""
    try:
        version, code = ray.get(answer)
    except Exception as error:  # of unpickling, of a plugin's import, or of Ray
        said = str(getattr(error, "cause", None) or error).strip()
        if "No module named 'flatscale'" in said:
            return "flatscale is not installed"
        return said.splitlines()[-1][:500] if said else type(error).__name__
    if version != __version__:
        return f"it has flatscale {version}"
    other = sorted(key for key, known in config.plugin_code.items() if code.get(key) != known)
    return f"it has other code of {', '.join(other)}" if other else None
