"""Alerts and pings against a real HTTP receiver on this machine: delivered, refused, dead, slow, and never a secret."""

from __future__ import annotations

import http.server
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from homelab_pipelines.observability import alerts
from homelab_pipelines.observability.alerts import ping, send_alert

SECRET = "tok3n-that-nobody-may-see"
PASSWORD = "passw0rd-that-nobody-may-see"


@dataclass(frozen=True)
class Received:
    path: str
    body: str
    headers: dict[str, str]


@dataclass
class Receiver:
    """An HTTP server that answers each request with the next of `answers`: a status, "hang", "drip" or "cut"."""

    answers: list[int | str] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def address(self) -> str:
        return f"json://user:{PASSWORD}@127.0.0.1:{self.port}/{SECRET}?+X-Token={SECRET}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/ping/{SECRET}"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    state = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            state.received.append(Received(self.path, body, dict(self.headers)))
            answer = state.answers.pop(0) if state.answers else 200
            if answer == "hang":
                state.closing.wait(60)
            elif answer == "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
                while not state.closing.wait(0.2):
                    self.wfile.write(b".")
            elif isinstance(answer, int):
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that gave up on a slow answer is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    state.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def dead_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(autouse=True)
def no_secret_is_said(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """After each test: not one log record of any level, nor anything printed, holds a secret."""
    caplog.set_level(logging.DEBUG)
    yield
    printed = capfd.readouterr()
    for text in (caplog.text, printed.out, printed.err):
        assert SECRET not in text
        assert PASSWORD not in text


def assert_no_secret(messages: list[str]) -> None:
    assert not [message for message in messages if SECRET in message or PASSWORD in message]


# --- alerts ---------------------------------------------------------------------------------------------------------


def test_alert_to_a_receiver_arrives_with_title_and_body(receiver: Receiver) -> None:
    body = 'backup of main/photos failed: "no space left"\nSchlüssel 🔑'
    assert send_alert([receiver.address], "nightly_backup failed", body) == []
    (received,) = receiver.received
    message = json.loads(received.body)
    assert (message["title"], message["message"], message["type"]) == ("nightly_backup failed", body, "failure")
    # The secrets did travel to where they belong, so that their absence elsewhere says something.
    assert SECRET in received.path
    assert received.headers["X-Token"] == SECRET
    assert "Authorization" in received.headers


def test_alert_to_nobody_is_no_failure() -> None:
    assert send_alert([], "title", "body") == []


def test_alert_to_a_failing_receiver_is_reported_with_its_status(receiver: Receiver) -> None:
    receiver.answers = [500]
    failures = send_alert([receiver.address], "title", "body")
    assert failures == [
        "alert not delivered to address 1 of 1 (json://127.0.0.1): the service answered HTTP 500",
    ]


def test_alert_to_a_dead_port_is_reported(dead_port: int) -> None:
    failures = send_alert([f"json://127.0.0.1:{dead_port}/{SECRET}"], "title", "body")
    assert failures == [
        "alert not delivered to address 1 of 1 (json://127.0.0.1): no connection, or no answer in time",
    ]


def test_alert_to_a_silent_receiver_is_given_up(receiver: Receiver) -> None:
    receiver.answers = ["hang"]
    failures = send_alert([f"{receiver.address}&rto=0.5"], "title", "body")
    assert failures == [
        "alert not delivered to address 1 of 1 (json://127.0.0.1): no connection, or no answer in time",
    ]


def test_alert_to_a_dripping_receiver_ends_at_the_limit_and_the_others_get_theirs(receiver: Receiver) -> None:
    receiver.answers = ["drip", 200]
    started = time.monotonic()
    failures = send_alert([receiver.address, receiver.address], "title", "body", limit=timedelta(seconds=2))
    assert time.monotonic() - started < 20
    assert len(receiver.received) == 2
    (failure,) = failures
    assert failure.endswith("(json://127.0.0.1): no answer within 2 s")


def test_alert_to_several_reaches_the_good_one_and_names_each_bad_one(receiver: Receiver, dead_port: int) -> None:
    addresses = [
        f"json://127.0.0.1:{dead_port}/{SECRET}",
        f"no-such-service://{SECRET}",
        receiver.address,
        f"discord://{SECRET}",
        SECRET,
        f"tgram://{SECRET}/{PASSWORD}",
    ]
    failures = send_alert(addresses, "title", "body", kind="warning")
    assert [json.loads(received.body)["type"] for received in receiver.received] == ["warning"]
    assert_no_secret(failures)
    assert [failure.partition(": ")[0] for failure in failures] == [
        "alert not delivered to address 1 of 6 (json://127.0.0.1)",
        "alert not delivered to address 2 of 6 (no-such-service)",
        "alert not delivered to address 4 of 6 (discord)",
        "alert not delivered to address 5 of 6 (not a URL)",
        "alert not delivered to address 6 of 6 (tgram)",
    ]
    assert "not a valid apprise address" in failures[1]


def test_alert_keeps_what_its_process_prints_to_itself(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONVERBOSE", "1")
    assert send_alert([receiver.address], "title", "body") == []
    assert capfd.readouterr() == ("", "")


def test_alert_whose_process_dies_is_reported(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    failures = send_alert([receiver.address], "title", "body")
    assert failures == [
        "alert not delivered to address 1 of 1 (json://127.0.0.1): the sending process broke off with exit status 1",
    ]


def test_alert_whose_process_cannot_start_is_reported(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    (failure,) = send_alert([receiver.address], "title", "body")
    assert failure.endswith("the sending process did not start: No such file or directory")


def test_importing_alerts_does_not_import_apprise() -> None:
    code = (
        "import sys, homelab_pipelines.observability.alerts; "
        "sys.exit(int('apprise' in sys.modules or 'requests' in sys.modules))"
    )
    assert subprocess.run((sys.executable, "-c", code), check=False, timeout=60).returncode == 0


# --- pings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same three tries, closer together."""
    monkeypatch.setattr(alerts, "PING_PAUSES", (timedelta(seconds=0.01), timedelta(seconds=0.01)))
    monkeypatch.setattr(alerts, "PING_TIMEOUT", timedelta(seconds=0.5))


@pytest.mark.parametrize(("event", "suffix"), [("start", "/start"), ("success", ""), ("fail", "/fail")])
def test_ping_calls_the_path_of_its_event(receiver: Receiver, event: alerts.PingEvent, suffix: str) -> None:
    assert ping(receiver.url, event, "3 databases, 1 failed: Fotos für Ömer") is None
    (received,) = receiver.received
    assert received.path == f"/ping/{SECRET}{suffix}"
    assert received.body == "3 databases, 1 failed: Fotos für Ömer"


def test_ping_of_a_url_with_slash_and_query_keeps_the_query(receiver: Receiver) -> None:
    assert ping(f"{receiver.url}/?create=1", "start") is None
    assert receiver.received[0].path == f"/ping/{SECRET}/start?create=1"


def test_ping_with_a_long_message_is_cut(receiver: Receiver) -> None:
    assert ping(receiver.url, "fail", "x" * 200_000) is None
    assert len(receiver.received[0].body) == alerts.PING_BODY_LIMIT


def test_ping_with_undecodable_bytes_in_its_message_is_sent(receiver: Receiver) -> None:
    assert ping(receiver.url, "fail", "pg_dump: b\udce4d name") is None
    assert receiver.received[0].body == "pg_dump: b?d name"


def test_ping_answered_500_twice_is_tried_again_and_succeeds(receiver: Receiver, quick: None) -> None:
    receiver.answers = [500, 503, 200]
    assert ping(receiver.url, "success") is None
    assert len(receiver.received) == 3


def test_ping_cut_off_is_tried_again_and_succeeds(receiver: Receiver, quick: None) -> None:
    receiver.answers = ["cut", 429]
    assert ping(receiver.url, "success") is None
    assert len(receiver.received) == 3


def test_ping_answered_500_always_is_reported_after_three_tries(receiver: Receiver, quick: None) -> None:
    receiver.answers = [500] * 9
    assert ping(receiver.url, "fail") == "ping 'fail' to http://127.0.0.1 failed: the server answered HTTP 500"
    assert len(receiver.received) == 3


def test_ping_answered_404_is_reported_at_once(receiver: Receiver, quick: None) -> None:
    receiver.answers = [404] * 9
    assert ping(receiver.url, "start") == "ping 'start' to http://127.0.0.1 failed: the server answered HTTP 404"
    assert len(receiver.received) == 1


def test_ping_of_a_silent_server_is_given_up_in_time(receiver: Receiver, quick: None) -> None:
    receiver.answers = ["hang"] * 9
    started = time.monotonic()
    assert ping(receiver.url, "start") == "ping 'start' to http://127.0.0.1 failed: no answer within 0.5 s"
    assert time.monotonic() - started < 10
    assert len(receiver.received) == 3


def test_ping_of_a_dead_port_is_reported(dead_port: int, quick: None) -> None:
    answer = ping(f"http://127.0.0.1:{dead_port}/{SECRET}", "success")
    assert answer == "ping 'success' to http://127.0.0.1 failed: Connection refused"


@pytest.mark.parametrize(
    "url",
    [
        SECRET,
        f"ftp://127.0.0.1/{SECRET}",
        f"file:///{SECRET}",
        f"http:///{SECRET}",
        f"http://[{SECRET}/x",
        f"http://127.0.0.1:{SECRET}/x",
        f"http://127.0.0.1/with space and {SECRET}",
        f"http://user:{PASSWORD}@127.0.0.1:{SECRET}/",
        f"http://no-such-host.invalid/{SECRET}",
        f"http://{'x' * 70}.invalid/{SECRET}",
        "",
    ],
)
def test_ping_of_an_unusable_url_is_reported_without_the_secret(url: str, quick: None) -> None:
    answer = ping(url, "start")
    assert answer is not None
    assert_no_secret([answer])
