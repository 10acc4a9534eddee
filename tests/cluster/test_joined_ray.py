"""Joining a cluster: a wrong address is refused at once, an unfit node is named, plugins travel."""

from __future__ import annotations

import importlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from flatscale.cli.commands import main
from flatscale.cluster import joined_ray
from flatscale.cluster.joined_ray import plugin_files, refuse_unreachable
from flatscale.errors import FlatscaleError
from flatscale.study.schema import StudyConfig


@contextmanager
def nobody() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    yield port


@contextmanager
def silent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def page() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@contextmanager
def another_server() -> Iterator[int]:
    server = grpc.server(importlib.import_module("concurrent.futures").ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


@pytest.mark.parametrize(
    ("server", "form", "words"),
    [
        (nobody, "127.0.0.1:{}", "nobody answers on port"),
        (nobody, "ray://127.0.0.1:{}", "nobody answers on port"),
        (silent, "127.0.0.1:{}", "no Ray server"),
        (page, "ray://127.0.0.1:{}", "no Ray server"),
        (another_server, "127.0.0.1:{}", "port of another of its servers"),
        (nobody, "somewhere", "'somewhere' is no address of a Ray cluster"),
        (nobody, "127.0.0.1:port", "is no address of a Ray cluster"),
        (nobody, "no-such-host.invalid:6379", "nobody answers on port 6379"),
    ],
)
def test_an_address_where_no_ray_answers_is_refused_in_one_sentence_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
    server: Callable[[], Iterator[int]],
    form: str,
    words: str,
) -> None:
    monkeypatch.setattr(joined_ray, "_PATIENCE", 0.7)
    began = time.monotonic()
    with server() as port, pytest.raises(FlatscaleError, match=words) as caught:  # type: ignore[attr-defined]
        refuse_unreachable(form.format(port))
    assert time.monotonic() - began < 15
    assert "ray://host:port" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_with_a_wrong_address_ends_before_ray_is_asked(
    study_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def never(**_: object) -> None:
        raise AssertionError("ray.init was called")

    monkeypatch.setattr("flatscale.cluster.launch.ray.is_initialized", lambda: False)
    monkeypatch.setattr("flatscale.cluster.joined_ray.ray.init", never)
    with nobody() as port:
        command = ["flatscale", "run", str(study_file(tracking={"enabled": False}))]
        command += ["--store", str(tmp_path / "store"), "--address", f"ray://127.0.0.1:{port}"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert "cannot reach Ray at ray://127.0.0.1" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """A plugin module that imports another from its folder, and one inside a package."""
    (tmp_path / "beside_plugin.py").write_text("")
    (tmp_path / "lone_plugin.py").write_text("import beside_plugin, yaml")
    (tmp_path / "not_imported.py").write_text("")
    (tmp_path / "packed_plugins").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "packed_plugins" / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("lone_plugin", "packed_plugins.inner")
    for name in names:
        importlib.import_module(name)
    yield names
    for name in (*names, "beside_plugin", "packed_plugins"):
        del sys.modules[name]


def test_plugins_are_sent_with_what_they_import_from_their_folder(
    plugins: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [path.relative_to(tmp_path).name for path in plugin_files(plugins)]
    assert found == ["beside_plugin.py", "lone_plugin.py", "packed_plugins"]
    monkeypatch.chdir(tmp_path)  # torch has modules that say they lie in the current folder
    found = [path.relative_to(tmp_path).name for path in plugin_files(plugins)]
    assert found == ["beside_plugin.py", "lone_plugin.py", "packed_plugins"]
    assert plugin_files(("yaml", "flatscale.metrics")) == []


@pytest.mark.usefixtures("small_ray")
def test_a_node_that_lacks_what_the_study_needs_is_named_before_work_starts(
    plugins: tuple[str, ...], small_study: Callable[..., StudyConfig]
) -> None:
    sound = small_study()
    joined_ray._refuse_unfit_nodes(sound, [])
    # The workers of this Ray were started without the plugins' folder.
    with pytest.raises(FlatscaleError, match="cannot import 'lone_plugin'") as caught:
        joined_ray._refuse_unfit_nodes(small_study(plugins=plugins), [])
    assert "127.0.0.1: " in str(caught.value)
    assert "Every node needs Python 3." in str(caught.value)
    other = sound.model_copy(update={"plugin_code": {"metric mls": "0123456789abcdef"}})
    with pytest.raises(FlatscaleError, match="has other code of metric mls"):
        joined_ray._refuse_unfit_nodes(other, [])
