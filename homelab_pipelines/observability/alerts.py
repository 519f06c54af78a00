"""Delivery of alerts to people (apprise addresses) and of pings to a dead man's switch (healthchecks style).

Nothing here decides what is worth an alert, nothing here raises, and nothing here logs: callers get failures as text.
Addresses and ping URLs are secrets (they hold tokens), so such text names a scheme and, where it surely is one, a host.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import timedelta
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

DELIVERY_LIMIT = timedelta(seconds=30)
"""For all addresses together. Apprise gives a service 4 s to connect and 4 s per read; some need several requests."""
SENDER_START_LIMIT = timedelta(seconds=30)
"""What a small computer may need, beyond the above, to start Python and load apprise."""
PING_TIMEOUT = timedelta(seconds=5)
PING_PAUSES = (timedelta(seconds=0.5), timedelta(seconds=1.5))
"""Before each retry. A ping must not hold up the backup that it announces."""
PING_BODY_LIMIT = 10_000
"""Bytes that every healthchecks version keeps (https://healthchecks.io/docs/attaching_logs/ allows 100 kB today)."""

AlertKind = Literal["info", "success", "warning", "failure"]
PingEvent = Literal["start", "success", "fail"]
_PING_PATHS = {"start": "/start", "success": "", "fail": "/fail"}
# Only of these schemes the part after :// is always a host (https://github.com/caronc/apprise/wiki); of others it may
# be a token, as in tgram://TOKEN/CHAT or discord://ID/TOKEN.
_PLAIN_SCHEMES = ("apprise", "form", "gotify", "hassio", "http", "json", "mailto", "mmost", "mqtt", "nctalk", "xml")
_SCHEMES_WITH_HOST = frozenset({*_PLAIN_SCHEMES, *(f"{scheme}s" for scheme in _PLAIN_SCHEMES)})


def send_alert(
    addresses: Sequence[str],
    title: str,
    body: str,
    *,
    kind: AlertKind = "failure",
    limit: timedelta = DELIVERY_LIMIT,
) -> list[str]:
    """Send one message to every apprise address; one failure never keeps the others from theirs.

    Returns what failed, one sentence per address, in their order; empty when all were delivered. Waits at most `limit`
    and the start of a Python process: apprise runs in a process of its own, because many of its services, and the
    libraries below them, write whole URLs with tokens to the log, and because one that hangs can then be ended.
    """
    if not addresses:
        return []
    request = {
        "addresses": list(addresses),
        "title": title,
        "body": body,
        "kind": kind,
        "limit": limit.total_seconds(),
    }
    # -P: neither the working folder nor this one may stand in for an installed module.
    command = (sys.executable, "-P", __file__)
    try:
        sender = subprocess.run(
            command,
            input=json.dumps(request).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=(limit + SENDER_START_LIMIT).total_seconds(),
            check=False,
        )
        causes = json.loads(sender.stdout.rpartition(b"\n")[2])
    except subprocess.TimeoutExpired:
        causes = ["the sending process did not end in time"] * len(addresses)
    except OSError as error:
        causes = [f"the sending process did not start: {error.strerror}"] * len(addresses)
    except ValueError:
        causes = [f"the sending process broke off with exit status {sender.returncode}"] * len(addresses)
    return [
        f"alert not delivered to address {number} of {len(addresses)} ({describe_address(address)}): {cause}"
        for number, (address, cause) in enumerate(zip(addresses, causes, strict=True), start=1)
        if cause
    ]


def ping(url: str, event: PingEvent, message: str = "") -> str | None:
    """Tell a healthchecks-style URL that a job starts, succeeded or failed; `message` is kept beside the ping.

    Three tries of at most five seconds; an answer of 4xx (but 429) is final. Returns None, or what went wrong.
    """
    what = f"ping '{event}' to {describe_address(url)} failed"
    try:
        parts = urlsplit(url)
        target = urlunsplit(parts._replace(path=parts.path.rstrip("/") + _PING_PATHS[event]))
    except ValueError:
        return f"{what}: it is no URL"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{what}: only http:// and https:// URLs can be pinged"
    body = message.encode(errors="replace")[:PING_BODY_LIMIT]
    cause, final = _ping_once(target, body)
    for pause in PING_PAUSES:
        if cause is None or final:
            break
        time.sleep(pause.total_seconds())
        cause, final = _ping_once(target, body)
    return f"{what}: {cause}" if cause else None


def describe_address(address: str) -> str:
    """What may be said of an address or URL in logs: `scheme://host` where that surely is a host, else `scheme`."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return "not a URL"
    if not parts.scheme or "://" not in address:
        return "not a URL"
    return f"{parts.scheme}://{host}" if parts.scheme in _SCHEMES_WITH_HOST and host else parts.scheme


def _ping_once(url: str, body: bytes) -> tuple[str | None, bool]:
    """One try: what went wrong, or None; whether another is pointless. An exception's own text may hold the URL."""
    try:
        request = urllib.request.Request(  # noqa: S310 - the caller let only http and https through
            url, data=body, method="POST", headers={"Content-Type": "text/plain; charset=utf-8"}
        )
        with urllib.request.urlopen(request, timeout=PING_TIMEOUT.total_seconds()):  # noqa: S310
            return None, True
    except urllib.error.HTTPError as error:
        error.close()
        return f"the server answered HTTP {error.code}", error.code < 500 and error.code != 429
    except (http.client.InvalidURL, ValueError):
        return "the URL is not valid", True
    except http.client.HTTPException as error:
        return f"the server broke off ({type(error).__name__})", False
    except OSError as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return f"no answer within {PING_TIMEOUT.total_seconds():g} s", False
        return (isinstance(cause, OSError) and cause.strerror) or type(cause).__name__, False


# Which address is being sent to: a context variable, because apprise carries those into its own threads.
_place: ContextVar[int] = ContextVar("place", default=-1)


class _Causes(logging.Handler):
    """In the sending process: apprise's last complaint of each address, reduced to what cannot hold a secret."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.by_place: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        _, found, code = record.getMessage().partition("error=")
        digits = code[:3]
        if found and digits.isdecimal():
            self.by_place[_place.get()] = f"the service answered HTTP {digits}"
        elif "connection error" in record.getMessage().lower():
            self.by_place[_place.get()] = "no connection, or no answer in time"


def _deliver(address: str, title: str, body: str, kind: str, heard: _Causes) -> str | None:
    """In a thread of the sending process: send to one address; None, or the cause of failure."""
    import apprise

    service = apprise.Apprise.instantiate(address)
    if service is None:
        return "it is not a valid apprise address; see https://github.com/caronc/apprise/wiki for how to write one"
    messenger = apprise.Apprise()
    messenger.add(service)
    if messenger.notify(title=title, body=body, notify_type=kind):
        return None
    return heard.by_place.get(_place.get(), "the service did not take it")


def _send() -> None:
    """The sending process: the request as JSON from stdin, a list of causes (null: delivered) as the last line out."""
    request = json.load(sys.stdin)
    addresses, deadline = request["addresses"], time.monotonic() + request["limit"]
    causes: list[str | None] = [f"no answer within {request['limit']:g} s"] * len(addresses)
    heard = _Causes()
    logging.getLogger("apprise").addHandler(heard)

    def work(place: int) -> None:
        _place.set(place)
        try:
            causes[place] = _deliver(addresses[place], request["title"], request["body"], request["kind"], heard)
        except Exception as error:  # noqa: BLE001 - one plugin's fault is one address's failure
            causes[place] = f"apprise failed on it with {type(error).__name__}"

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(addresses))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    sys.stdout.write("\n" + json.dumps(causes))
    sys.stdout.flush()
    os._exit(0)  # a service that hangs must not hold up the end


if __name__ == "__main__":
    _send()
