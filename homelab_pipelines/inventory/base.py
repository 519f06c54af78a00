"""The base of every section model and the small text types that several sections share."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Strict, WithJsonSchema

from homelab_pipelines.inventory.problems import did_you_mean, invalid, noun, one_of, shown

T = TypeVar("T")
NAME_PATTERN = "^[a-z0-9][a-z0-9-]*$"
# RFC 1123 section 2.1 and RFC 1035 section 2.3.4: labels of letters, digits and hyphens, 63 characters, 253 in all.
# The underscore is not in them, but Compose and Docker DNS names have it.
_LABEL = re.compile("(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


class Section(BaseModel):
    """A part of the inventory: unknown keys refused, no silent conversion, not to be changed, values not in errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def path_from(base_dir: Path, written: str) -> Path:
    """A path of the inventory: a relative one starts at `base_dir`, the folder of homelab.yaml; ~ is a home folder."""
    try:
        return base_dir / Path(written).expanduser()
    except RuntimeError:
        return base_dir / written


def check_name(value: str) -> str:
    """A name that may stand in asset keys, paths and host names: lower-case letters, digits and hyphens."""
    if re.fullmatch(NAME_PATTERN, value):
        return value
    plain = re.sub("[^a-z0-9]+", "-", value.lower()).strip("-")
    raise invalid(
        "a name has only lower-case letters, digits and hyphens, and starts with a letter or digit",
        f"write '{plain}'" if plain else "for example 'main'",
    )


def is_address(value: str) -> bool:
    """Whether `value` can only be an address: an IP address, localhost, or a host name with a dot."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return value == "localhost" or ("." in value and is_host_name(value))
    return True


def is_host_name(value: str) -> bool:
    """Whether `value` is a host name by RFC 1123 (one label or more, not all digits), without a port."""
    labels = value.removesuffix(".").split(".")
    if len(value) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return False
    return not all(label.isdecimal() for label in labels)


def check_address(value: str) -> str:
    """An IP address or a host name, and nothing around it."""
    if is_address(value) or is_host_name(value):
        return value
    raise invalid(
        f"{shown(value)} is neither an IP address nor a host name",
        "write the address alone, without user, port or path: 192.168.1.10 or nas.example.org",
    )


def one_kind(value: Any, kinds: dict[str, str], what: str) -> Any:
    """Refuse a mapping that has none or several of the keys that say which kind it is.

    `kinds` maps each such key to an example; `what` names the thing in messages.
    """
    examples = " or ".join(kinds.values())
    if isinstance(value, Section):
        return value
    if not isinstance(value, dict):
        raise invalid(f"{what} must be a mapping, here stands {noun(value)}", f"write {examples}")
    here = [kind for kind in kinds if kind in value]
    if len(here) == 1:
        return value
    if here:
        raise invalid(f"{what} has {' and '.join(here)}; only one of them may stand here", f"write {examples}")
    near = next((hint for key in value if (hint := did_you_mean(key, kinds))), "")
    raise invalid(f"{what} needs one of {one_of(kinds)}", near or f"write {examples}")


Name = Annotated[str, AfterValidator(check_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
Address = Annotated[
    str, AfterValidator(check_address), WithJsonSchema({"type": "string", "description": "IP address or host name"})
]
# A YAML list becomes a tuple, so that nothing of a frozen model can be changed.
Items = Annotated[tuple[T, ...], Strict(False)]
