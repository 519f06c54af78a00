"""The section `databases`: the servers whose databases are backed up, and how a restore of them is tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from homelab_pipelines.inventory.base import Items, Name, Section, check_address, one_kind
from homelab_pipelines.inventory.problems import Finding, Path, did_you_mean, findings_under, invalid, one_of
from homelab_pipelines.inventory.secrets import SecretReference
from homelab_pipelines.inventory.units import Duration, Percent, Size

GIB = 1024**3
OWN_OF_THE_SERVER = "postgres"
"""The database that initdb makes (postgresql.org/docs/current/app-initdb.html). A server with no other is empty."""
_MOST_NAMES = 8
_Patterns = tuple[frozenset[str], tuple[str, ...]]
AT_KINDS = {
    "host": "{host: main}",
    "socket": "{socket: /var/run/postgresql}",
    "container": "{container: postgres}",
    "pod": "{pod: postgres-0}",
}


def _docker_host(value: str) -> str:
    parts = urlsplit(value)
    if parts.password:
        raise invalid("an address of Docker holds no password", "use an SSH key: ssh://user@host")
    if parts.scheme in ("unix", "ssh", "tcp") and (parts.netloc or parts.path):
        return value
    raise invalid("not an address of Docker", "write unix:///var/run/docker.sock or ssh://user@host")


def _folder(value: str) -> str:
    if value.startswith("/"):
        return value
    raise invalid("not an absolute path", "start it with /, for example /var/run/postgresql")


Port = Annotated[int, Field(ge=1, le=65535)]
Folder = Annotated[str, AfterValidator(_folder)]
Text = Annotated[str, Field(min_length=1)]


class AtHost(Section):
    """A server that is reached over TCP."""

    host: Annotated[str, AfterValidator(check_address)] = Field(description="name of one of hosts, or an address")
    port: Port = Field(default=5432, description="TCP port")


class AtSocket(Section):
    """A server on this machine, reached through a Unix socket."""

    socket: Folder = Field(description="folder that holds the socket, for example /var/run/postgresql")
    port: Port = Field(default=5432, description="number in the socket's name, .s.PGSQL.<port>")


class AtContainer(Section):
    """A server in a Docker container, reached with docker exec."""

    container: Text = Field(description="name of the container")
    docker_host: Annotated[str, AfterValidator(_docker_host)] | None = Field(
        default=None, description="Docker Engine, for example ssh://user@host; by default the one docker itself uses"
    )


class AtPod(Section):
    """A server in a Kubernetes pod, reached with kubectl exec."""

    pod: Text = Field(description="name of the pod, or of what runs it: deployment/postgres")
    namespace: Text = Field(default="default", description="namespace of the pod")
    context: Text | None = Field(default=None, description="context of the kubeconfig; by default the current one")
    pod_container: Text | None = Field(default=None, description="container of the pod; by default its first")


def _at_kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, Section) else {}
    kinds = {"socket": "<AtSocket>", "container": "<AtContainer>", "pod": "<AtPod>"}
    return next((tag for key, tag in kinds.items() if key in keys), "<AtHost>")


At = Annotated[
    Annotated[AtHost, Tag("<AtHost>")]
    | Annotated[AtSocket, Tag("<AtSocket>")]
    | Annotated[AtContainer, Tag("<AtContainer>")]
    | Annotated[AtPod, Tag("<AtPod>")],
    Discriminator(_at_kind),
    BeforeValidator(lambda value: one_kind(value, AT_KINDS, "the place of a server")),
]


class Verify(Section):
    """Where a restore is tried."""

    method: Literal["auto", "local", "container", "server"] = Field(
        default="auto",
        description="local: a throw-away server from installed programs; container: one from the source's image; "
        "server: a scratch database on another server of this file; auto: the first of these that is possible",
    )
    image: Text | None = Field(default=None, description="image of the scratch container; by default the source's own")
    server: Name | None = Field(default=None, description="entry of databases that may hold scratch databases")
    scratch: Folder | None = Field(default=None, description="folder for scratch servers; by default the temporary one")


class History(Section):
    """What change against a source's own history stops pruning and raises an alert. In percent; null turns one off."""

    size_drop: Percent | None = Field(default=50, description="backup smaller than before by this many percent")
    rows_drop: Percent | None = Field(default=50, description="fewer rows than before by this many percent")
    size_growth: Percent | None = Field(default=None, description="backup larger than before by this many percent")
    rows_growth: Percent | None = Field(default=None, description="more rows than before by this many percent")


class PostgresServer(Section):
    """A PostgreSQL server; each of its databases becomes an asset of its own."""

    kind: Literal["postgres"] = Field(description="what kind of server it is")
    at: At = Field(description="where the server is: exactly one of host, socket, container and pod")
    user: Text = Field(default="postgres", description="role that reads everything")
    password: SecretReference | None = Field(default=None, description="password of that role, where one is asked for")
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = Field(
        default="prefer", description="as in libpq; verify-full also proves that it is the right server"
    )
    maintenance_database: Text = Field(
        default="postgres", description="database to connect to for asking for the others"
    )
    include: Items[Text] = Field(default=("*",), description="patterns of databases to back up; templates never are")
    exclude: Items[Text] = Field(default=(), description="patterns of databases to leave out; they win over include")
    content_hash_up_to: Size = Field(
        default=2 * GIB,
        description="tables up to this size are compared by content, larger ones by row count alone; 0 turns it off",
    )
    lock_wait: Duration = Field(default=timedelta(seconds=60), description="how long to wait for a locked table")
    verify: Verify = Field(default=Verify(), description="where a restore is tried")
    history: History = Field(default=History(), description="changes that stop pruning and raise an alert")

    def selects(self, database_name: str) -> bool:
        """Whether include and exclude (fnmatch patterns, case-sensitive; exclude wins) choose this database."""
        return _matches(database_name, self._included) and not _matches(database_name, self._excluded)

    @cached_property
    def _included(self) -> _Patterns:
        return _split(self.include)

    @cached_property
    def _excluded(self) -> _Patterns:
        return _split(self.exclude)

    def choice_findings(self, present: Sequence[str]) -> Iterator[Finding]:
        """What of include and exclude cannot be meant, on a server with the databases `present`; paths start here.

        A pattern that matches nothing is a typo, or a database that went; either way somebody counts on a backup.
        """
        have = f"the server has {_some(present)}"
        unmatched = [
            index
            for index, pattern in enumerate(self.include)
            if present and not any(fnmatchcase(name, pattern) for name in present)
        ]
        for index in unmatched:
            pattern, path = self.include[index], ("include", index)
            meant = did_you_mean(pattern.strip("*?"), present)
            yield Finding(path, f"include: '{pattern}' matches no database", meant or have, about=(path,))
        left = [name for name in present if name != OWN_OF_THE_SERVER]
        if left and not unmatched and not any(self.selects(name) for name in present):
            message = "exclude: of the databases that the server has, none is left to back up"
            yield Finding(("exclude",), message, have, about=(("include",), ("exclude",)))


def is_name(pattern: str) -> bool:
    """Whether a pattern of fnmatch matches nothing but itself."""
    return not set(pattern) & set("*?[")


def _split(patterns: Sequence[str]) -> _Patterns:
    # A thousand databases may be named one by one: only real patterns are tried on every name.
    names = frozenset(pattern for pattern in patterns if is_name(pattern))
    return names, tuple(pattern for pattern in patterns if pattern not in names)


def _matches(name: str, patterns: _Patterns) -> bool:
    names, wild = patterns
    return name in names or any(fnmatchcase(name, pattern) for pattern in wild)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _pattern_findings(server: PostgresServer) -> Iterator[Finding]:
    """Patterns that choose nothing, whatever databases there are."""
    if not server.include:
        hint = "remove the key to back up every database, or write patterns"
        yield Finding(("include",), "include: this chooses no database at all", hint, about=(("include",),))
    for index, pattern in enumerate(server.include):
        literal = is_name(pattern)
        winner = next(
            (
                each
                for each in server.exclude
                if each == pattern or not each.strip("*") or (literal and fnmatchcase(pattern, each))
            ),
            None,
        )
        if winner is not None:
            path: Path = ("include", index)
            yield Finding(
                path if "include" in server.model_fields_set else ("exclude",),
                f"include: '{pattern}' is left out again by exclude: '{winner}'",
                "exclude wins: remove the pattern from one of the two",
                about=(path, ("exclude",)),
            )


Databases = dict[Name, PostgresServer]


def findings(databases: Mapping[str, PostgresServer]) -> Iterator[Finding]:
    """What the entries of `databases` disagree about among themselves; paths start at the section."""
    for name, server in databases.items():
        yield from findings_under((name,), _pattern_findings(server))
        verify, path = server.verify, (name, "verify")
        if verify.server is not None and verify.server not in databases:
            yield Finding(
                (*path, "server"),
                f"server: there is no '{verify.server}' among databases",
                did_you_mean(verify.server, databases) or f"write {one_of(databases)}",
                about=((*path, "server"), (verify.server,)),
            )
        if verify.method == "server" and verify.server is None:
            yield Finding(
                (*path, "method"),
                "method: server needs to know which server",
                "add server: <an entry of databases>",
                about=((*path, "method"), (*path, "server")),
            )
        if verify.server is not None and verify.method in ("local", "container"):
            yield Finding(
                (*path, "server"),
                f"server: it is never used, because method is {verify.method}",
                "write method: server, or remove this key",
                about=((*path, "method"), (*path, "server")),
                at="key",
            )
