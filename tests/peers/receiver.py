"""A real HTTP receiver for alerts and pings that keeps what it was sent."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class HttpReceiver:
    """`requests` has the path and body of every POST so far."""

    port: int
    host: str = "127.0.0.1"
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def alert_address(self) -> str:
        """An apprise address; `token` stands for the secret that such an address holds."""
        return f"json://{self.host}:{self.port}/alerts-token-7f3a"

    @property
    def ping_url(self) -> str:
        return f"http://{self.host}:{self.port}/ping-token-9c1e"

    def alerts(self, about: str) -> list[str]:
        """Title and message of every alert that names `about`."""
        bodies = [json.loads(body) for path, body in self.requests if "alerts-token" in path and about in body]
        return [f"{body['title']}\n{body['message']}" for body in bodies]

    def pings(self, about: str) -> list[str]:
        """The event of every ping that names `about`, in order."""
        paths = [path for path, body in self.requests if "ping-token" in path and about in body]
        return [path.partition("ping-token-9c1e")[2].strip("/") or "success" for path in paths]


@contextmanager
def http_receiver(host: str = "127.0.0.1") -> Iterator[HttpReceiver]:
    """A receiver on a free port of one of this machine's addresses until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            receiver.requests.append((self.path, body.decode()))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((host, 0), Handler)
    receiver = HttpReceiver(server.server_address[1], host)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
