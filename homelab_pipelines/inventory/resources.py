"""What the runs of some assets need of the machine that carries them out: `resources` of a server or of all backups."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from homelab_pipelines.inventory.base import Items, Section
from homelab_pipelines.inventory.problems import invalid
from homelab_pipelines.inventory.units import Size

_LEAST_MEMORY = 256 * 1024**2


def _memory(value: int) -> int:
    if value >= _LEAST_MEMORY:
        return value
    raise invalid("a run cannot even start with so little", "write 256MiB or more, for example 4GiB")


class Toleration(Section):
    """A taint of a Kubernetes node that is put up with, as Kubernetes writes it."""

    key: str = Field(min_length=1, description="key of the taint")
    operator: Literal["Exists", "Equal"] = Field(default="Exists", description="Equal compares the value, too")
    value: str | None = Field(default=None, description="value of the taint, with Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="effect of the taint; without it, every effect"
    )

    @model_validator(mode="after")
    def _value_fits_operator(self) -> Self:
        if self.operator == "Equal" and self.value is None:
            raise invalid("Equal compares the value, and there is none", "add value: <that of the taint>")
        if self.operator == "Exists" and self.value is not None:
            raise invalid("Exists takes no value", "write operator: Equal, or remove value")
        return self


class RunResources(Section):
    """What a run gets in a container or a pod; the largest of what its assets ask for."""

    cpu: float | None = Field(default=None, ge=0.01, le=1024, description="processor cores, for example 2 or 0.5")
    memory: Annotated[Size, AfterValidator(_memory)] | None = Field(
        default=None, description="main memory, for example 4GiB"
    )
    node_selector: dict[str, str] = Field(
        default={}, description="labels that a Kubernetes node must have; elsewhere of no meaning"
    )
    tolerations: Items[Toleration] = Field(
        default=(), description="taints of Kubernetes nodes that are put up with; elsewhere of no meaning"
    )

    def over(self, other: RunResources) -> RunResources:
        """These, and what they do not say from `other`."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        return other.model_copy(update=said)
