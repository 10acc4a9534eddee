"""What stands in for the agent of Ray's page: how it is started, and that it ends; without Ray."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from flatscale.cluster import idle_agent, own_node


@pytest.mark.parametrize("here", ["/home/me/flatscale", "/home/my studies/flatscale"])
@pytest.mark.parametrize("rays", ["/home/me/ray", "/home/my venv/ray"])
def test_an_idle_agent_is_started_from_any_path(
    here: str, rays: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_node, "ConsolePopen", lambda command, **_: command)
    monkeypatch.setattr(own_node, "__file__", f"{here}/own_node.py")
    monkeypatch.setattr(ray, "__file__", f"{rays}/__init__.py")
    agent = [f"{rays}/python", "-u", f"{rays}/dashboard/agent.py", f"--log-dir={rays}/logs"]
    command = [f"{rays}/raylet", f"--dashboard_agent_command={subprocess.list2cmdline(agent)}"]
    raylet, started = own_node._start(command)
    assert raylet == command[0]
    # as the raylet splits it
    expected = [agent[0], "-u", f"{here}/idle_agent.py", agent[3]]
    assert shlex.split(started.removeprefix("--dashboard_agent_command=")) == expected


def idle(folder: Path, raylet: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", idle_agent.__file__, f"--session-dir={folder}", "--node-id=n"],
        env={**os.environ, "RAY_RAYLET_PID": str(raylet)},
    )


def test_an_idle_agent_ends_where_its_raylet_has_ended_before_it_began(tmp_path: Path) -> None:
    with idle(tmp_path, raylet=os.getppid()) as process:
        try:
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_an_idle_agent_says_that_there_are_no_servers_and_stays(tmp_path: Path) -> None:
    with idle(tmp_path, raylet=os.getpid()) as process:
        try:
            deadline = time.monotonic() + 20
            names = {f"{name}_n" for name in idle_agent._PORTS}
            while {path.name for path in tmp_path.iterdir()} != names:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert {path.read_text() for path in tmp_path.iterdir()} == {"-1"}
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
        finally:
            process.kill()
