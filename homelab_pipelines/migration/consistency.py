"""What the parts of a Compose project must agree about, all of it at once; Compose itself stops at the first.

The same rules as Compose's own (compose-go, loader/validate.go, graph/cycle.go), on the model without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from homelab_pipelines.inventory.problems import Path, Problem, did_you_mean, shown
from homelab_pipelines.migration.stack import Stack


def consistency_problems(stack: Stack) -> list[Problem]:
    """Every disagreement in a model that was resolved without Compose's own check of it."""
    return [*_undefined(stack), *_circles(stack)]


def _problem(stack: Stack, path: Path, message: str, hint: str) -> Problem:
    place = stack.place(path)
    return Problem(place.file, place.line, place.column, message, hint)


def _undefined(stack: Stack) -> Iterator[Problem]:
    services = stack.model.get("services") or {}
    for name, service in services.items():
        at: Path = ("services", name)
        if not service.get("image") and not service.get("build") and not service.get("provider"):
            yield _problem(
                stack, at, f"service '{name}' has neither image nor build", "add image: and the image's name"
            )
        mode = str(service.get("network_mode") or "")
        if mode and service.get("networks"):
            hint = "remove one of the two"
            yield _problem(stack, (*at, "network_mode"), "network_mode and networks exclude each other", hint)
        if mode.startswith("service:") and mode[8:] not in services:
            yield _missing(stack, (*at, "network_mode"), "service", mode[8:], services)
        for key, kind in (("depends_on", "service"), ("networks", "network")):
            known = services if kind == "service" else stack.model.get("networks") or {}
            for wanted in service.get(key) or {}:
                by_mode = key == "depends_on" and mode == f"service:{wanted}"
                if wanted not in known and not by_mode:
                    yield _missing(stack, (*at, key, wanted), kind, wanted, known)
        for key, kind in (("volumes", "volume"), ("secrets", "secret"), ("configs", "config")):
            known = stack.model.get(key) or {}
            for index, entry in enumerate(service.get(key) or ()):
                wanted = entry.get("source")
                if wanted and wanted not in known and (kind != "volume" or entry.get("type") == "volume"):
                    yield _missing(stack, (*at, key, index), kind, wanted, known)


def _missing(stack: Stack, path: Path, kind: str, name: str, known: Iterable[str]) -> Problem:
    add = f"add it to services, or remove {path[2]}" if kind == "service" else f"add it to {kind}s at the top level"
    return _problem(stack, path, f"there is no {kind} {shown(name)}", did_you_mean(name, known) or add)


def _circles(stack: Stack) -> Iterator[Problem]:
    """The circles of depends_on, each once."""
    after: Mapping[str, list[str]] = {
        name: list(service.get("depends_on") or {}) for name, service in (stack.model.get("services") or {}).items()
    }
    done: set[str] = set()

    def walk(name: str, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if name in above:
            yield (*above[above.index(name) :], name)
        elif name not in done:
            for wanted in after.get(name, ()):
                yield from walk(wanted, (*above, name))
            done.add(name)

    for name in after:
        for circle in walk(name, ()):
            path: Path = ("services", circle[0], "depends_on", circle[1])
            message = f"services wait for each other in a circle: {' → '.join(circle)}"
            yield _problem(stack, path, message, "remove one depends_on of this circle")
