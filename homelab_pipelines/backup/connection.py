"""How a PostgreSQL server is reached: directly, inside a container, or inside a pod. Builds commands; runs nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from homelab_pipelines.backup.programs import client_for

APPLICATION = "homelab_pipelines"
CONNECT_TIMEOUT_SECONDS = 10
# A server that vanishes without a word (power, cable, a firewall that forgets) is given up after two minutes; with the
# system's own settings a session would wait for its answer for two hours (tcp_keepalive_time) or for ever. The names
# are libpq's, known since version 12; nothing but TCP takes notice of them. tcp_user_timeout is in milliseconds.
LIVENESS = {
    "keepalives": 1,
    "keepalives_idle": 60,
    "keepalives_interval": 10,
    "keepalives_count": 6,
    "tcp_user_timeout": 120_000,
}
# What libpq takes when these are not given: it does not accept an empty value for them (fe-connect.c).
_NEVER_EMPTY = {
    "sslcertmode": "allow",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
    "require_auth": "password,md5,gss,sspi,scram-sha-256,none",
}


@dataclass(frozen=True)
class Direct:
    """TCP or a socket folder; the client programs of this machine are used."""

    host: str
    port: int = 5432
    sslmode: str = "prefer"

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class InContainer:
    """A container of a Docker Engine; its own client programs are used, through its own socket."""

    container: str
    docker_host: str | None = None

    def __str__(self) -> str:
        return f"container {self.container}" + (f" at {self.docker_host}" if self.docker_host else "")

    def prefix(self) -> tuple[str, ...]:
        """The command that runs another one inside, with its standard input."""
        return (*self.docker(), "exec", "-i", self.container)

    def docker(self) -> tuple[str, ...]:
        """The docker command for this engine."""
        return ("docker", *(("--host", self.docker_host) if self.docker_host else ()))


@dataclass(frozen=True)
class InPod:
    """A pod of a cluster; its own client programs are used, through its own socket."""

    pod: str
    namespace: str = "default"
    context: str | None = None
    container: str | None = None

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"

    def prefix(self) -> tuple[str, ...]:
        """The command that runs another one inside, with its standard input."""
        container = ("--container", self.container) if self.container else ()
        return (*self._kubectl("exec"), "--stdin", self.pod, *container, "--")

    def get(self) -> tuple[str, ...]:
        """The command that writes the pod as JSON, with the state it is in."""
        return (*self._kubectl("get"), "pod", self.pod, "--output", "json")

    def _kubectl(self, verb: str) -> tuple[str, ...]:
        context = ("--context", self.context) if self.context else ()
        return ("kubectl", *context, verb, "--namespace", self.namespace)


@dataclass(frozen=True)
class Command:
    """A program to run: its arguments, the environment it adds, and the first line of its standard input, if any.

    A secret stands in the environment or in `first_line`, never in `arguments`.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    first_line: str | None = field(default=None, repr=False)

    def full_environment(self) -> dict[str, str]:
        """The environment of this process with the command's own, messages untranslated."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**inherited, "LC_ALL": "C.UTF-8", **self.environment}


@dataclass(frozen=True)
class Connection:
    """A server and the account used on it."""

    name: str
    place: Direct | InContainer | InPod
    user: str = "postgres"
    password: str | None = field(default=None, repr=False)
    maintenance_database: str = "postgres"

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"

    def conninfo(self, database: str | None = None) -> str:
        """The libpq connection string, without the password."""
        reach: dict[str, str | int] = {}
        if isinstance(self.place, Direct):
            reach = {"host": self.place.host, "port": self.place.port, "sslmode": self.place.sslmode, **LIVENESS}
        return make_conninfo(
            "",
            dbname=database or self.maintenance_database,
            user=self.user,
            application_name=APPLICATION,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            **reach,
        )

    def command(self, program: str, *arguments: str, server_major: int) -> Command:
        """The command that runs a PostgreSQL client program against this server.

        Directly: an installed version not older than the server (raises ProgramMissing). Inside a container or pod: its
        own. The password travels in PGPASSWORD, or as the first line of standard input where the environment of this
        process does not reach.
        """
        if isinstance(self.place, Direct):
            environment = {} if self.password is None else {"PGPASSWORD": self.password}
            path = str(client_for(server_major).bin / program)
            return Command((*dying_with_parent(), path, *arguments), environment)
        if self.password is None:
            return Command((*self.place.prefix(), program, *arguments))
        script = 'IFS= read -r PGPASSWORD && export PGPASSWORD && exec "$@"'
        return Command((*self.place.prefix(), "sh", "-c", script, "sh", program, *arguments), first_line=self.password)


def shielded(conninfo: str) -> str:
    """`conninfo` for psycopg, with the default for all that a PG… variable of this process would say otherwise.

    The client programs get no such variable (`full_environment`): what our own session reaches, and with which
    certificates, must be what they reach. An empty value is libpq's word for "as if it were not given".
    """
    options = [
        option for option in Conninfo.get_defaults() if option.envvar is not None and option.keyword != b"service"
    ]
    # An option of a service named by PGSERVICE counts where none is given here. Undo that, too.
    said = [o for o in options if "PGSERVICE" in os.environ or (o.envvar or b"").decode() in os.environ]
    defaults = {option.keyword.decode(): (option.compiled or b"").decode() for option in said}
    defaults |= {name: value for name, value in _NEVER_EMPTY.items() if name in defaults}
    return make_conninfo(conninfo, **{**defaults, **conninfo_to_dict(conninfo)})


def dying_with_parent() -> tuple[str, ...]:
    """A command prefix that ends the command when this process is killed, where the system has one (Linux: setpriv).

    A pg_dump that waits for a lock would otherwise outlive its reader until it next writes.
    """
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()
