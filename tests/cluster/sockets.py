"""Which sockets a process and everything it started listen on, as the kernel tells it."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_LISTEN = "0A"


@dataclass(frozen=True, kw_only=True)
class Listening:
    """One listening TCP socket and the process that holds it."""

    title: str
    host: str
    port: int

    @property
    def on_loopback(self) -> bool:
        address = ipaddress.ip_address(self.host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listening(root: int) -> list[Listening]:
    """The listening sockets of a process and of its descendants."""
    sockets = _listening_by_inode()
    found = []
    for pid in process_tree(root):
        with suppress(OSError):
            title = (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ")
            for link in (Path("/proc") / str(pid) / "fd").iterdir():
                with suppress(OSError):
                    inode = str(link.readlink()).removeprefix("socket:[").removesuffix("]")
                    if inode in sockets:
                        host, port = sockets[inode]
                        name = title.decode(errors="replace").strip()
                        found.append(Listening(title=name, host=host, port=port))
    return sorted(set(found), key=lambda socket: (socket.title, socket.port))


def process_tree(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The name, in brackets, may hold anything.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1])
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _listening_by_inode() -> dict[str, tuple[str, int]]:
    found = {}
    for name in ("tcp", "tcp6"):
        path = Path("/proc/net") / name
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _LISTEN:
                host, _, port = fields[1].partition(":")
                found[fields[9]] = (_address(host), int(port, 16))
    return found


def _address(words: str) -> str:
    """The kernel prints addresses as 32-bit words of the machine's (little) byte order."""
    content = b"".join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
    return str(ipaddress.ip_address(content))
