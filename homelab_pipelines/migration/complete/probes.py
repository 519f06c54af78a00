"""Probes from health checks. Accounts for `healthcheck`.

Kompose makes a liveness probe that runs the whole shell line as one program, so that Kubernetes restarts what is
healthy. Docker restarts nothing for its health: so readiness carries the check, startup waits for it, and liveness is
lax.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft, Object
from homelab_pipelines.migration.secret_words import looks_secret, secret_arguments
from homelab_pipelines.migration.values import literal, seconds, whole_seconds

# Docker's own numbers where a check says none (docs.docker.com/reference/dockerfile/#healthcheck).
_INTERVAL, _TIMEOUT, _RETRIES = 30.0, 30.0, 3
# Docker lets a slow start take as long as it will; five minutes are the least before Kubernetes tries anew.
_START_SECONDS = 300
_LOOPBACK = {"localhost", "127.0.0.1", "::1", "0.0.0.0"}  # noqa: S104 (compared with, not listened on)
# Options that change nothing of what a request means to a probe; short ones of curl also in one word, `-fsSk`.
_CURL = re.compile("-[fsSkLI]+|--fail|--silent|--show-error|--insecure|--location|--head|-o|--output|/dev/null")
_WGET = re.compile(
    "-q|--quiet|-nv|--no-verbose|--spider|-S|--tries=1|-t1|--no-check-certificate|-q?O-?|-O/dev/null|-|/dev/null"
)
_FAILS = re.compile("--fail|-[a-zA-Z]*f[a-zA-Z]*")
_TRUSTS = re.compile("--insecure|-[a-zA-Z]*k[a-zA-Z]*|--no-check-certificate")


def apply(draft: Draft) -> None:
    """Set readiness, startup and liveness probes."""
    for name, check, path in draft.having("healthcheck"):
        test = [literal(word) for word in check.get("test") or ()]
        if check.get("disable") or test[:1] == ["NONE"]:
            draft.ledger.carried(path, "no probe: Kubernetes does not read the image's own health check")
        elif not test:
            reason = "it times the image's own health check, which Kubernetes does not read: write its test here"
            draft.ledger.dropped(path, reason)
        elif draft.pods[name].kind == "Job":
            draft.ledger.dropped(path, "a Job is done when it ends, not when it is healthy")
        else:
            _probe(draft, name, check, test, path)


def _probe(draft: Draft, name: str, check: Mapping[str, Any], test: list[str], path: Path) -> None:
    action = probe_action(test)
    if action is None:
        draft.ledger.dropped((*path, "test"), "it runs no command")
        draft.ledger.dropped(path, "there is no test to be timed")
        return
    words = test[1:]
    if looks_secret(" ".join(words)) or secret_arguments(words) or draft.holds_secret(" ".join(words)):
        decision = "the health check holds a secret in plain text: read it from a variable of the container ($$NAME)"
        draft.ledger.blocked((*path, "test"), decision)
        draft.ledger.dropped(path, "its test waits for a decision")
        return
    draft.containers[name] |= probes(action, check)
    for key, where in (
        ("test", "readinessProbe, startupProbe, livenessProbe"),
        ("interval", "readinessProbe.periodSeconds"),
        ("timeout", "readinessProbe.timeoutSeconds"),
        ("retries", "readinessProbe.failureThreshold"),
        ("start_period", "startupProbe.failureThreshold"),
        ("start_interval", "startupProbe.periodSeconds"),
    ):
        draft.ledger.carried((*path, key), draft.to_container(name, where))


def probes(action: Object, check: Mapping[str, Any]) -> Object:
    """The three probes for one action with the times of a health check."""
    interval, timeout = whole_seconds(check.get("interval"), _INTERVAL), whole_seconds(check.get("timeout"), _TIMEOUT)
    retries = int(check.get("retries") or _RETRIES)
    start = seconds(check.get("start_period"), 0)
    first = whole_seconds(check.get("start_interval"), min(interval, 10))
    times = {"timeoutSeconds": timeout}
    return {
        "readinessProbe": {**action, "periodSeconds": interval, **times, "failureThreshold": retries},
        "startupProbe": {
            **action,
            "periodSeconds": first,
            **times,
            "failureThreshold": math.ceil(max(_START_SECONDS, start + interval * retries) / first),
        },
        "livenessProbe": {
            **action,
            "periodSeconds": interval,
            **times,
            "failureThreshold": max(3 * retries, math.ceil(_START_SECONDS / interval)),
        },
    }


def probe_action(test: list[str]) -> Object | None:
    """What a probe does for a Compose test: an HTTP request where the test makes one, else its command."""
    kind, *words = test
    if kind == "CMD-SHELL":
        line = " ".join(words)
        return (http_action(line) or {"exec": {"command": ["/bin/sh", "-c", line]}}) if line else None
    words = words if kind == "CMD" else test
    return (http_action(shlex.join(words)) or {"exec": {"command": words}}) if words else None


def http_action(line: str) -> Object | None:
    """An httpGet for a `curl -f` or `wget` of one local address, or None where the test is anything else."""
    line = re.sub(r"\s*\|\|\s*(exit 1|false)\s*$", "", re.sub(r"\s*(1?>|2>)\s*(/dev/null|&1)", "", line)).strip()
    try:
        words = shlex.split(line)
        urls = [urlsplit(word) for word in words[1:] if "://" in word]
        ports = [url.port for url in urls]
    except ValueError:
        return None
    flags = [word for word in words[1:] if "://" not in word]
    known = {"curl": _CURL, "wget": _WGET}.get(words[0]) if words else None
    if known is None or len(urls) != 1 or not all(known.fullmatch(flag) for flag in flags):
        return None
    if words[0] == "curl" and not any(_FAILS.fullmatch(flag) for flag in flags):
        return None
    url = urls[0]
    if url.hostname not in _LOOPBACK or "$" in line or url.username:
        return None
    if url.scheme == "https" and not any(_TRUSTS.fullmatch(flag) for flag in flags):
        return None
    port = ports[0] or (443 if url.scheme == "https" else 80)
    action: Object = {"path": f"{url.path or '/'}{'?' + url.query if url.query else ''}", "port": port}
    return {"httpGet": {**action, "scheme": "HTTPS"} if url.scheme == "https" else action}
