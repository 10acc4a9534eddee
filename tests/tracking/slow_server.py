"""A proxy before an MLflow server: answers slowly, or only after carrying a request out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Seconds = Callable[[str, int], float]
"""(path of the request, how many of that path came before) -> seconds."""


@contextmanager
def slow_proxy(
    port: int, *, before: Seconds | None = None, after: Seconds | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Passes requests on to a port of this machine, each waiting before it and after it.

    Gives its URI and the paths of the requests in the order in which they came.
    """
    paths: list[str] = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def handle_one(self) -> None:
            path = self.path.partition("?")[0]
            with lock:
                number = paths.count(path)
                paths.append(path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(before(path, number) if before else 0)
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
            time.sleep(after(path, number) if after else 0)
            # The client may have given up.
            with suppress(OSError):
                self.send_response(answer.status)
                kind = answer.getheader("Content-Type", "application/json")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", paths
    finally:
        server.shutdown()
        server.server_close()
