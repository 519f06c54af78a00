"""Who dials whom: the names by which services of a stack are reached, found in the texts of the others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.names import is_label, label
from homelab_pipelines.migration.values import literal

_HOST_VARIABLE = re.compile(
    "HOST|SERVER|ADDR|URL|URI|ENDPOINT|UPSTREAM|BROKER|PEER|NODE|BACKEND|REDIS|DSN", re.IGNORECASE
)


class Peers:
    """Every name that leads to a service, and the texts in which others use it."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self.names: dict[str, list[str]] = {}
        for name, service, _ in draft.services():
            for each in names_of(name, service):
                self.names.setdefault(each, []).append(name)
        self.texts = {name: list(_texts(service)) for name, service, _ in draft.services()}
        for name, text in draft.mounted_texts:
            self.texts[name].append(text)

    def dialled(self, name: str) -> bool:
        """Whether a service other than those of this name uses it."""
        own = self.names.get(name, [])
        pattern = _pattern(name)
        return any(
            pattern.search(text) for service, texts in self.texts.items() if service not in own for text in texts
        )

    def dialled_ports(self, name: str) -> set[int]:
        """The ports with which others use a name: `name:8080`, `http://name/`."""
        pattern = re.compile(rf"(?<![\w.-])(?:(https?)://)?{re.escape(name)}(?::(\d{{2,5}}))?(?![\w.-])")
        found: set[int] = set()
        for text in (text for texts in self.texts.values() for text in texts):
            for scheme, port in pattern.findall(text):
                if port and 0 < int(port) < 65536:
                    found.add(int(port))
                elif scheme:
                    found.add(443 if scheme == "https" else 80)
        return found

    def rewritten(self, service: str, variable: str, text: str) -> tuple[str, str]:
        """`text` with names that no Service may have made valid, and what was changed.

        A name is taken for a host where it stands in a URL or before a port, or is all of a variable whose own name
        says that it is a host.
        """
        changes = []
        for name in self.names:
            if is_label(name) or name not in text:
                continue
            if text == name and _HOST_VARIABLE.search(variable):
                text = label(name)
            else:
                in_url = rf"(?:(?<=//)|(?<=@)){re.escape(name)}(?=[:/?]|$)|(?<![\w./-]){re.escape(name)}(?=:\d)"
                changed = re.sub(in_url, label(name), text)
                if changed == text:
                    continue
                text = changed
            changes.append(f"the host name {name} became {label(name)}")
        return text, ", ".join(changes)


def names_of(name: str, service: Mapping[str, Any]) -> list[str]:
    """By which names a service can be reached: its own, container_name, hostname, aliases."""
    found = [name, literal(service.get("container_name")), literal(service.get("hostname"))]
    for network in (service.get("networks") or {}).values():
        found += [literal(alias) for alias in (network or {}).get("aliases") or ()]
    return [each for each in dict.fromkeys(found) if each]


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)")


def _texts(service: Mapping[str, Any]) -> Iterator[str]:
    for value in (service.get("environment") or {}).values():
        yield literal(value)
    for key in ("command", "entrypoint"):
        for word in service.get(key) or ():
            yield literal(word)
    for value in (service.get("labels") or {}).values():
        yield literal(value)
