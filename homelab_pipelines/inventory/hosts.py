"""The section `hosts`: the machines of the homelab."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from homelab_pipelines.inventory.base import Address, Section
from homelab_pipelines.inventory.secrets import SecretReference
from homelab_pipelines.inventory.units import Size


class Ssh(Section):
    """How a host is reached over SSH."""

    user: str = Field(min_length=1, description="account to log in as")
    port: int = Field(default=22, ge=1, le=65535, description="port of the SSH server")
    key: SecretReference | None = Field(default=None, description="private key; without it the SSH agent is asked")


class Host(Section):
    """One machine."""

    address: Address = Field(description="IP address or host name under which this machine reaches it")
    role: Literal["server", "agent", "storage", "edge"] | None = Field(
        default=None, description="what the machine is mainly for"
    )
    cpu: int | None = Field(default=None, ge=1, description="number of processor cores")
    memory: Size | None = Field(default=None, description="main memory, for example 32GiB")
    arch: Literal["amd64", "arm64"] | None = Field(default=None, description="processor architecture")
    labels: dict[str, str] = Field(default={}, description="labels of your own, as Kubernetes nodes have them")
    ssh: Ssh | None = Field(default=None, description="how to log in")
