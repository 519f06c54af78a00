"""The whole inventory, `Homelab`, and what its sections must agree about."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from homelab_pipelines.inventory import backups as backups_section
from homelab_pipelines.inventory import databases as databases_section
from homelab_pipelines.inventory import stacks as stacks_section
from homelab_pipelines.inventory.alerts import Alerts
from homelab_pipelines.inventory.backups import Backups
from homelab_pipelines.inventory.base import Name, Section, is_address, is_host_name
from homelab_pipelines.inventory.databases import AtHost, Databases
from homelab_pipelines.inventory.hosts import Host
from homelab_pipelines.inventory.housekeeping import Housekeeping
from homelab_pipelines.inventory.problems import Finding, did_you_mean, findings_under, invalid, one_of, shown
from homelab_pipelines.inventory.stacks import ComposeStack

# What Dagster accepts as an owner: dagster._core.utils.is_valid_email, or team: and a name.
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")
_OWNER_PATTERN = r"^(team:\S.*|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7})$"


def _timezone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(value, zoneinfo.available_timezones())
        raise invalid(
            f"{shown(value)} is no time zone", hint or "write an IANA name, for example Europe/Berlin"
        ) from None
    return value


def _domain(value: str) -> str:
    if "." in value and is_host_name(value):
        return value.removesuffix(".")
    raise invalid(f"{shown(value)} is no domain", "write it without a protocol and a path: example.org")


def _owner(value: str) -> str:
    if _EMAIL.fullmatch(value) or re.fullmatch(r"team:\S.*", value):
        return value
    hint = f"write team:{value}, or an e-mail address" if re.fullmatch("[A-Za-z0-9_-]+", value) else ""
    raise invalid("an owner is an e-mail address or a team", hint or "write team:home or someone@example.org")


class Homelab(Section):
    """What the homelab should be: the whole of homelab.yaml."""

    homelab: Name = Field(description="name of the homelab")
    domain: Annotated[str, AfterValidator(_domain)] | None = Field(
        default=None, description="domain of the homelab, for example example.org"
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        default="UTC", description="IANA time zone of all schedules, for example Europe/Berlin"
    )
    owner: (
        Annotated[str, AfterValidator(_owner), WithJsonSchema({"type": "string", "pattern": _OWNER_PATTERN})] | None
    ) = Field(default=None, description="who owns the assets in Dagster: team:name or an e-mail address")
    hosts: dict[Name, Host] = Field(default={}, description="the machines, by name")
    stacks: dict[Name, ComposeStack] = Field(default={}, description="the Compose projects, by name")
    databases: Databases = Field(default={}, description="the database servers, by name")
    backups: Backups = Field(default=Backups(), description="when backups are made, how, and where they go")
    alerts: Alerts = Field(default=Alerts(), description="whom to tell when something fails")
    housekeeping: Housekeeping = Field(
        default=Housekeeping(), description="how long Dagster's own history stays, and how large it may be"
    )

    def address_of(self, host: str) -> str:
        """The address of an entry of `hosts`; anything else is an address already."""
        return self.hosts[host].address if host in self.hosts else host


def findings(homelab: Homelab, base_dir: FilePath) -> Iterator[Finding]:
    """Everything that parts of the inventory disagree about, section by section and between sections.

    `base_dir` is the folder of homelab.yaml, where relative paths in it start.
    """
    yield from stacks_section.findings(homelab.stacks, homelab.hosts)
    yield from findings_under(("databases",), databases_section.findings(homelab.databases))
    yield from findings_under(("backups",), backups_section.findings(homelab.backups, base_dir))
    for name, server in homelab.databases.items():
        if isinstance(server.at, AtHost) and server.at.host not in homelab.hosts and not is_address(server.at.host):
            path = ("databases", name, "at", "host")
            known = f"write {one_of(homelab.hosts)}, or an address" if homelab.hosts else "add it to hosts"
            yield Finding(
                path,
                f"host: there is no '{server.at.host}' among hosts, and it is no address",
                did_you_mean(server.at.host, homelab.hosts) or known,
                about=(path, ("hosts", server.at.host)),
            )
    if homelab.databases and not homelab.backups.targets:
        section = "backups" if "backups" in homelab.model_fields_set else "databases"
        yield Finding(
            (section,),
            f"{section}: there are databases, but no target to back them up to",
            "add targets: {nas: {directory: /mnt/nas/backups, keep: {daily: 7, weekly: 4}}} to backups",
            about=(("backups", "targets"),),
            at="key",
        )
