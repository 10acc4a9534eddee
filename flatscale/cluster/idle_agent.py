"""What a Ray of our own starts in place of the agent of its page, which nobody asks anything.

Run as a script with the agent's arguments. The agent takes over a second of a core to start, and
goes on measuring processes; its raylet waits for it. This says of each of its servers that there is
none, as Ray's own does where the libraries of the page are not installed, and ends with the raylet.
"""

import os
import sys
import time
from pathlib import Path

_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
_NONE = "-1"


def main() -> None:
    """Say that there are no servers, then wait for the raylet to end."""
    named = (argument.removeprefix("--") for argument in sys.argv if "=" in argument)
    given = dict(argument.split("=", 1) for argument in named)
    # What the raylet says of itself: if it has ended already, the parent is another by now.
    raylet = int(os.environ["RAY_RAYLET_PID"])
    for name in _PORTS:
        path = Path(given["session-dir"], f"{name}_{given['node-id']}")
        unfinished = path.with_name(f"{path.name}.tmp")
        unfinished.write_text(_NONE, encoding="ascii")
        unfinished.rename(path)
    while os.getppid() == raylet:
        time.sleep(1)


if __name__ == "__main__":
    main()
