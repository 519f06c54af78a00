"""A proxy in front of Docker's socket that lets through only what the run launcher of one `dagster.yaml` does.

Access to Docker's socket is root on its host. Filtering by method and path would not change that, for whoever may
create a container may mount the host's root folder into it. So the body of a create is compared with the launcher's
settings, and every other call reaches only containers that were made through here. Nothing of a request is passed on as
it came: it is parsed, judged, and written anew. `python -m homelab_pipelines.socket_proxy` serves.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

T = TypeVar("T")
LAUNCHERS = ("DockerRunLauncher", "ContainerRunLauncher")
"""dagster_docker's launcher, and homelab_pipelines.docker_launcher's, which asks the engine for the same."""
RUN_LABEL = "dagster/run_id"
"""dagster_docker puts it on every container of a run."""
DEPLOYMENT_LABEL = "homelab/deployment"
"""dagster.yaml puts it there, so that two deployments on one engine cannot reach each other's containers."""
PORT = 2375
_SECONDS = 120.0
_LOOK_SECONDS = 5.0
_BODY_BYTES = 4 * 1024 * 1024
_CHUNK = 64 * 1024
_CONTAINER = re.compile(r"(?:/v1\.\d+)?/containers/([A-Za-z0-9][A-Za-z0-9_.-]*)/(json|start|stop|kill|wait|logs)")
_PLAIN = re.compile(r"(?:/v1\.\d+)?/(_ping|version)")
_IMAGE = re.compile(r"(?:/v1\.\d+)?/images/([A-Za-z0-9][A-Za-z0-9_./:@-]*)/json")
_CREATE = re.compile(r"(?:/v1\.\d+)?/containers/create")
_METHODS = {"json": "GET", "logs": "GET", "start": "POST", "stop": "POST", "kill": "POST", "wait": "POST"}
# Parameters that these calls may have (https://docs.docker.com/reference/api/engine/); others are dropped.
_PARAMETERS = {"t", "signal", "condition", "stdout", "stderr", "tail", "since", "until", "timestamps", "follow", "size"}
# Of a container's settings: these may hold any value, for they only narrow what it can do, or describe it.
_FREE = {"AttachStdout", "AttachStderr", "Healthcheck", "Labels", "StopSignal", "StopTimeout", "Tty", "WorkingDir"}
_FREE_OF_HOST = {
    "AutoRemove",
    "CapDrop",
    "CpuPeriod",
    "CpuQuota",
    "CpuShares",
    "Init",
    "LogConfig",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "ReadonlyRootfs",
    "ShmSize",
}
_SECURITY = {"no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"}


class Refused(Exception):
    """A request that the launcher never makes; the message says which part of it."""


@dataclass(frozen=True)
class Rules:
    """What the launcher's containers look like: taken from dagster.yaml and the deployment's image."""

    deployment: str
    image: str
    networks: frozenset[str]
    binds: frozenset[str]
    variables: frozenset[str]
    security: frozenset[str] = frozenset(_SECURITY)

    @classmethod
    def of(cls, settings: Mapping[str, Any], image: str) -> Rules:
        """From dagster.yaml. Raises ValueError unless it has a Docker launcher with a deployment label, one network."""
        config = launcher_config(settings)
        keywords = config.get("container_kwargs") or {}
        deployment = (keywords.get("labels") or {}).get(DEPLOYMENT_LABEL)
        if not deployment:
            raise ValueError(
                f"container_kwargs.labels must have {DEPLOYMENT_LABEL}; compare deploy/docker/dagster.yaml"
            )
        volumes = keywords.get("volumes") or []
        names = [str(each).partition("=")[0] for each in config.get("env_vars") or []]
        networks = [config["network"]] if config.get("network") else config.get("networks") or []
        if len(networks) != 1:
            raise ValueError("run_launcher.config.networks must name exactly one network")
        return cls(
            deployment=str(deployment),
            image=image,
            networks=frozenset(map(str, networks)),
            binds=frozenset(_bind(str(each)) for each in volumes),
            # dagster_docker adds this one by itself.
            variables=frozenset([*names, "DAGSTER_RUN_JOB_NAME"]),
        )

    def check_create(self, body: Mapping[str, Any]) -> None:
        """Raises Refused unless the launcher could have asked for this container."""
        labels = _part(body, "Labels", dict)
        host = _part(body, "HostConfig", dict)
        if body.get("Image") != self.image:
            raise Refused(f"the image {body.get('Image')} is not this deployment's, {self.image}")
        if not labels.get(RUN_LABEL) or labels.get(DEPLOYMENT_LABEL) != self.deployment:
            raise Refused(f"the labels {RUN_LABEL} and {DEPLOYMENT_LABEL}={self.deployment} must be there")
        if _part(body, "Cmd", list)[:2] != ["dagster", "api"]:
            raise Refused("the command is not that of a Dagster run")
        for entry in _part(body, "Env", list):
            if str(entry).partition("=")[0] not in self.variables:
                raise Refused(f"the variable {str(entry).partition('=')[0]} is not one of dagster.yaml's env_vars")
        for bind in _part(host, "Binds", list):
            if _bind(str(bind)) not in self.binds:
                raise Refused(f"the volume {bind} is not one of dagster.yaml's container_kwargs.volumes")
        for name in {str(host.get("NetworkMode")), *_endpoints(body)}:
            if name not in self.networks:
                raise Refused(f"the network {name} is not one of dagster.yaml's networks")
        for option in _part(host, "SecurityOpt", list):
            if option not in self.security:
                raise Refused(f"the security option {option} would widen what the container may do")
        # `Volumes` names folders inside the container: harmless, and docker-py sends it with every bind.
        known = {*_FREE, "Image", "Cmd", "Env", "Volumes", "HostConfig", "NetworkingConfig"}
        _expect_empty(body, known, "")
        _expect_empty(host, {*_FREE_OF_HOST, "Binds", "NetworkMode", "SecurityOpt"}, "HostConfig.")

    def owns(self, container: Mapping[str, Any]) -> bool:
        """Whether an inspected container is a run of this deployment."""
        labels = (container.get("Config") or {}).get("Labels") or {}
        return bool(labels.get(RUN_LABEL)) and labels.get(DEPLOYMENT_LABEL) == self.deployment


def launcher_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`config` of a dagster.yaml's launcher for Docker, also of one that another launcher holds. Raises ValueError."""
    launcher = settings.get("run_launcher") or {}
    held = (launcher.get("config") or {}).get("launchers") or {}
    found = [each for each in (launcher, *held.values()) if each.get("class") in LAUNCHERS]
    if len(found) != 1:
        raise ValueError(f"run_launcher must hold one {' or '.join(LAUNCHERS)}, and holds {len(found)}")
    config: dict[str, Any] = found[0].setdefault("config", {})
    return config


def _expect_empty(section: Mapping[str, Any], known: set[str], path: str) -> None:
    # Docker reads keys without regard to case: an unknown spelling is refused like an unknown key.
    for key, value in section.items():
        if key not in known and value not in (None, False, 0, "", [], {}):
            raise Refused(f"{path}{key} is nothing that the launcher sets")


def _endpoints(body: Mapping[str, Any]) -> set[str]:
    networking = _part(body, "NetworkingConfig", dict)
    _expect_empty(networking, {"EndpointsConfig"}, "NetworkingConfig.")
    return set(_part(networking, "EndpointsConfig", dict))


def _part(section: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """A mapping or a list of a body, empty where there is none. Raises Refused for anything else in its place."""
    value = section.get(key)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise Refused(f"{key} has a form that the launcher never writes")
    return value


def _bind(written: str) -> str:
    """`source:target` and `source:target:rw` are the same."""
    return written if written.count(":") > 1 else f"{written}:rw"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over Docker's socket."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Proxy(ThreadingHTTPServer):
    """Serves one engine under one set of rules."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], engine: str, rules: Rules) -> None:
        super().__init__(address, _Handler)
        self.engine = engine
        self.rules = rules
        self._looked = 0.0

    def service_actions(self) -> None:
        """End this process once Docker has made its socket anew: the one that is mounted here leads nowhere for ever.

        A restart of Docker with live-restore does that, unless systemd keeps the socket. Docker then starts this
        container again, with the socket that is there now.
        """
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.settimeout(1.0)
            try:
                probe.connect(self.engine)
            except ConnectionRefusedError:
                sys.exit(
                    f"nobody listens at {self.engine} any more: this container is started again for the new socket"
                )


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS
    server_version = "homelab-socket-proxy"
    sys_version = ""

    def do_GET(self) -> None:
        self._judge()

    def do_HEAD(self) -> None:
        self._judge()

    def do_POST(self) -> None:
        self._judge()

    def do_DELETE(self) -> None:
        self._judge()

    def do_PUT(self) -> None:
        self._judge()

    def _judge(self) -> None:
        # One request a connection: a body that was not read, or half understood, can never become a second request.
        self.close_connection = True
        try:
            body = self._body()
            target = self._target(body)
            self._pass_on(target, json.dumps(body).encode() if body is not None else None)
        except Refused as error:
            self._answer(HTTPStatus.FORBIDDEN, f"homelab's Docker socket proxy refused {self._asked()}: {error}")
        except (OSError, http.client.HTTPException) as error:
            self._answer(HTTPStatus.BAD_GATEWAY, f"Docker does not answer homelab's socket proxy: {error}")

    def _body(self) -> dict[str, Any] | None:
        """The JSON object that came along, parsed. Raises Refused for anything else."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            raise Refused("the body's length is not said")
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            raise Refused("the body's length is no number") from None
        if not 0 <= length <= _BODY_BYTES:
            raise Refused("the body is too long")
        raw = self.rfile.read(length) if length else b""
        if not raw.strip() or self.command != "POST":
            return None
        try:
            parsed = json.loads(raw)
        except ValueError:
            raise Refused("the body is no JSON") from None
        if not isinstance(parsed, dict):
            raise Refused("the body is no JSON object")
        return parsed

    def _target(self, body: dict[str, Any] | None) -> str:
        """The path to ask the engine for, built from what was understood. Raises Refused."""
        parts = urlsplit(self.path)
        path, rules = unquote(parts.path), self.server.rules
        if self.command in ("GET", "HEAD") and (found := _PLAIN.fullmatch(path)):
            return path
        if self.command == "GET" and (found := _IMAGE.fullmatch(path)):
            if found[1] != rules.image:
                raise Refused(f"the image is not this deployment's, {rules.image}")
            return path
        if self.command == "POST" and _CREATE.fullmatch(path):
            rules.check_create(body or {})
            return path
        if (found := _CONTAINER.fullmatch(path)) and self.command == _METHODS[found[2]]:
            if body:
                raise Refused("this call has no body")
            inspected = self._inspect(found[1])
            if inspected is not None and not rules.owns(inspected):
                raise Refused("the container is no run of this deployment")
            # By its id: a name could have gone to another container since it was judged.
            path = path if inspected is None else f"/containers/{inspected['Id']}/{found[2]}"
            given = [(key, value) for key, value in parse_qsl(parts.query) if key in _PARAMETERS]
            return f"{path}?{urlencode(given)}" if given else path
        if self.command == "POST" and path.endswith("/images/create"):
            raise Refused(
                f"this deployment pulls no image, and the engine does not have {rules.image}\n"
                "  next: homelab up --docker builds it"
            )
        raise Refused("the launcher never asks for this")

    def _inspect(self, container: str) -> dict[str, Any] | None:
        """What the engine says of a container; None when it knows none, which the call itself will then say."""
        connection = _UnixConnection(self.server.engine)
        try:
            connection.request("GET", f"/containers/{container}/json", headers={"Host": "docker"})
            response = connection.getresponse()
            content = response.read()
            if response.status == HTTPStatus.NOT_FOUND:
                return None
            if response.status != HTTPStatus.OK:
                raise Refused(f"the engine does not say whose container it is: {response.status}")
            found: dict[str, Any] = json.loads(content)
            return found
        finally:
            connection.close()

    def _pass_on(self, target: str, body: bytes | None) -> None:
        connection = _UnixConnection(self.server.engine)
        try:
            headers = {"Host": "docker", "Content-Type": "application/json"}
            connection.request(self.command, target, body=body, headers=headers)
            response = connection.getresponse()
            self.send_response(response.status)
            for name in ("Content-Type", "Api-Version", "Docker-Experimental", "Ostype"):
                if value := response.headers.get(name):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while self.command != "HEAD" and (chunk := response.read1(_CHUNK)):
                self.wfile.write(chunk)
        finally:
            connection.close()

    def _answer(self, status: HTTPStatus, message: str) -> None:
        content = json.dumps({"message": message}).encode()  # the form of the engine's own errors
        print(f"{status.value} {message}", file=sys.stderr, flush=True)  # noqa: T201 (the container's log)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _asked(self) -> str:
        return f"{self.command} {urlsplit(self.path).path}"

    def log_message(self, format: str, *arguments: Any) -> None:
        """What is let through is not logged: the webserver asks every few seconds."""


def main() -> None:
    """Serve until ended, as the environment says: DAGSTER_HOME, HOMELAB_IMAGE, DOCKER_SOCKET."""
    import yaml

    settings = Path(os.environ.get("DAGSTER_HOME", "/opt/dagster")) / "dagster.yaml"
    try:
        rules = Rules.of(yaml.safe_load(settings.read_text()) or {}, os.environ["HOMELAB_IMAGE"])
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        sys.exit(f"the socket proxy cannot read its rules from {settings} and HOMELAB_IMAGE: {error}")
    engine = os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock")
    Proxy(("0.0.0.0", PORT), engine, rules).serve_forever()  # noqa: S104 (a container; compose.yaml publishes no port)


if __name__ == "__main__":
    main()
