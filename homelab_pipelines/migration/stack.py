"""`Stack`: a Compose project as Compose itself resolves it, and where in its files each of its values was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from homelab_pipelines.inventory.problems import Path, Problem


@dataclass(frozen=True)
class Place:
    """Where something is written. Line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class StackInvalid(Exception):
    """A Compose project that cannot be used; `problems` holds every mistake that was found."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


@dataclass(frozen=True)
class Stack:
    """One Compose project.

    `model` is what `docker compose --profile '*' config --format json --no-env-resolution` prints: short syntax is
    long, variables, anchors, extends, include, merges are resolved; `env_file` stands beside `environment`. `places`
    leads from paths in the model (keys and list indices, `("services", "web", "ports", 0, "target")`) to where they
    were written; where Compose made a value up from another, as short syntax, its parent has the place. `warnings` are
    things that Compose takes in silence or with a warning: variables that are not set, keys that it ignores.
    """

    name: str
    folder: FilePath
    files: tuple[FilePath, ...]
    model: Mapping[str, Any]
    places: Mapping[Path, Place] = field(repr=False)
    warnings: tuple[Problem, ...] = ()

    def place(self, path: Path) -> Place:
        """Where `path` of the model was written, or its nearest ancestor; the first file, where nothing is known."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(str(self.files[0]), 1, 1))

    def leaves(self) -> Iterator[tuple[Path, Any]]:
        """Every value of the model that has no values below it, with its path; empty lists and mappings among them."""
        return leaves(self.model)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every scalar, empty list and empty mapping below `value`, with its path."""
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from leaves(below, (*path, key))
    elif isinstance(value, list) and value:
        for index, below in enumerate(value):
            yield from leaves(below, (*path, index))
    else:
        yield path, value
