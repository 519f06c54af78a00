"""The section `stacks`: the Compose projects of the homelab. What stands in them is read elsewhere, in use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import Field

from homelab_pipelines.inventory.base import Name, Section
from homelab_pipelines.inventory.hosts import Host
from homelab_pipelines.inventory.problems import Finding, did_you_mean, one_of


class ComposeStack(Section):
    """One Compose project."""

    path: str = Field(
        min_length=1,
        description="the folder with the Compose file, or the file, relative to the folder of homelab.yaml",
    )
    host: Name = Field(description="the host that it runs on, a name from hosts")


def findings(stacks: Mapping[str, ComposeStack], hosts: Mapping[str, Host]) -> Iterator[Finding]:
    """Stacks on hosts that are not in the inventory; paths start at its top.

    Whether a path is there is not asked here: backups go on on a machine that has no copy of the Compose files.
    """
    for name, stack in stacks.items():
        if stack.host not in hosts:
            path = ("stacks", name, "host")
            known = f"write {one_of(hosts)}" if hosts else "add it to hosts"
            yield Finding(
                path,
                f"host: there is no '{stack.host}' among hosts",
                did_you_mean(stack.host, hosts) or known,
                about=(path, ("hosts", stack.host)),
            )
