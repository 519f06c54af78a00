"""A TCP proxy on loopback that misbehaves as networks and servers do, in front of a real server."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Literal, Self

Mode = Literal["pass", "refuse", "reset", "503", "slow", "black hole", "cut"]
_PIECE = 16 << 10
_RECEIVED_AHEAD = 64 << 10
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST
_BUSY_BODY = b"<Error><Code>ServiceUnavailable</Code><Message>busy</Message></Error>"
_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_BUSY_BODY),
    _BUSY_BODY,
)


class FaultyProxy:
    """Forwards 127.0.0.1:`port` to 127.0.0.1:`upstream_port` until `set` gives another mode.

    pass: as it is. refuse: nothing listens. reset: RST after `limit` bytes to the server over all connections. 503:
    every request is read and answered with HTTP 503. slow: at most `limit` bytes a second each way. black hole:
    connections are accepted and never answered. cut: after `limit` bytes to the client over all connections, an
    orderly close.
    A new mode ends the connections there are.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._lock = threading.Lock()
        self._mode: Mode = "pass"
        self._limit = 0
        self._listener: socket.socket | None = _listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self.connections = 0
        self._accept_on(self._listener)

    @property
    def endpoint(self) -> str:
        """The URL of an HTTP server behind the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set(self, mode: Mode, limit: int = 0) -> None:
        """Behave like `mode` from now on."""
        with self._lock:
            self._mode, self._limit = mode, limit
        self._end_connections()
        if mode == "refuse":
            self._stop_listening()
        elif self._listener is None:
            self._listener = _listen(self.port)
            self._accept_on(self._listener)

    def close(self) -> None:
        """End the proxy and its connections."""
        self._stop_listening()
        self._end_connections()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _end_connections(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            _reset(each)

    def _accept_on(self, listener: socket.socket) -> None:
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            with self._lock:
                self._sockets.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._lock:
            mode = self._mode
        if mode == "black hole":
            return
        if mode == "503":
            with contextlib.suppress(OSError, ValueError):
                _answer_all(client, _BUSY)
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._upstream_port), timeout=5)
        except OSError:
            _reset(client)
            return
        server.settimeout(None)
        with self._lock:
            self._sockets.add(server)
        threading.Thread(target=self._forward, args=(client, server, "reset"), daemon=True).start()
        self._forward(server, client, "cut")

    def _forward(self, source: socket.socket, sink: socket.socket, limited_by: Mode) -> None:
        try:
            while data := source.recv(_PIECE):
                with self._lock:
                    mode, limit = self._mode, self._limit
                    if mode == limited_by:
                        self._limit -= len(data)
                if mode == limited_by and len(data) >= limit:
                    sink.sendall(data[: max(limit, 0)])
                    if mode == "cut":
                        break
                    _reset(source)
                    _reset(sink)
                    return
                sink.sendall(data)
                if mode == "slow":
                    time.sleep(len(data) / limit)
        except OSError:
            _reset(source)
            _reset(sink)
            return
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def _listen(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port), backlog=64)
    # Inherited by each connection: a slow link is no use when the kernel takes in megabytes before it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_AHEAD)
    return listener


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    with contextlib.suppress(OSError):
        # Wakes a thread that waits in recv, which close alone does not.
        connection.shutdown(socket.SHUT_RD)
    connection.close()


class HttpAnswer:
    """A server on a port of 127.0.0.1 that gives the same bytes as the answer to every HTTP request."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError, ValueError):
                _answer_all(client, self._answer)


def _answer_all(client: socket.socket, answer: bytes) -> None:
    """Read each request whole, as closing with unread bytes would reset the connection, and send `answer`."""
    with client.makefile("rb") as stream:
        while True:
            length = 0
            lines = 0
            while (line := stream.readline()) not in (b"\r\n", b""):
                lines += 1
                field, _, value = line.decode("latin-1").partition(":")
                if field.lower() == "content-length":
                    length = int(value)
                if field.lower() == "expect":
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            if not lines:
                return
            while length > 0 and (data := stream.read(min(length, _PIECE))):
                length -= len(data)
            client.sendall(answer)
