"""Which files make up a Compose project, and in which order: the Compose file, overrides, `include`, `extends`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from homelab_pipelines.inventory.problems import Path, Problem
from homelab_pipelines.migration.compose_file import ComposeFile, read_compose_file
from homelab_pipelines.migration.stack import StackInvalid
from homelab_pipelines.migration.variables import read_env_file, substitute

# In the order in which Compose looks for them (compose-go, cli/options.go: DefaultFileNames, DefaultOverrideFileNames).
FILE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
_REMOTE = ("http://", "https://", "git@", "git://", "ssh://", "oci://", "github.com/")


@dataclass(frozen=True)
class Layer:
    """One file, the folder from which its `include` and `extends` count, and the variables that hold in it."""

    file: ComposeFile
    base: FilePath
    variables: Mapping[str, str]


@dataclass
class Project:
    """The files of a project.

    `named` are those that the project begins with, the Compose file and its overrides. `layers` define resources, the
    strongest first: what several of them say, the first decides. `extended` are the files that an `extends` names, by
    (naming file, service). `problems` are what keeps the project from being read.
    """

    named: tuple[FilePath, ...]
    layers: list[Layer] = field(default_factory=list)
    extended: dict[tuple[FilePath, str], Layer] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def main(self) -> Layer:
        """The Compose file itself."""
        return self.layers[len(self.named) - 1]

    def files(self) -> Iterator[ComposeFile]:
        """Every file once: those that the project begins with, then what they include, then what is extended."""
        count = len(self.named)
        seen: set[FilePath] = set()
        for layer in (*reversed(self.layers[:count]), *self.layers[count:], *self.extended.values()):
            if layer.file.path not in seen:
                seen.add(layer.file.path)
                yield layer.file


def compose_files(path: FilePath, environment: Mapping[str, str]) -> tuple[FilePath, ...]:
    """The Compose file at `path`, or those of the folder at `path`: COMPOSE_FILE's, or one with its override file.

    Named as `path` is. Raises StackInvalid when there is none.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        hint = "name a Compose file, or the folder it is in"
        raise StackInvalid((Problem(str(path), 0, 0, "there is no such file or folder", hint),))
    variables = {**read_env_file(path / ".env"), **environment}
    if chosen := variables.get("COMPOSE_FILE"):
        return tuple(
            path / name for name in chosen.split(variables.get("COMPOSE_PATH_SEPARATOR") or os.pathsep) if name
        )
    found = next((path / name for name in FILE_NAMES if (path / name).is_file()), None)
    if found is None:
        hint = f"it has to be called {FILE_NAMES[0]}; a file with another name can be named itself"
        raise StackInvalid((Problem(str(path), 0, 0, "there is no Compose file in this folder", hint),))
    override = next((path / name for name in OVERRIDE_NAMES if (path / name).is_file()), None)
    return (found, override) if override else (found,)


def read_project(files: tuple[FilePath, ...], environment: Mapping[str, str]) -> Project:
    """Read the files of a project and all that they include and extend."""
    base = files[0].parent
    variables = {**read_env_file(base / ".env"), **environment}
    project = Project(files)
    _add(project, files, base, variables, ())
    for file in project.files():
        project.problems += file.problems
    project.problems = list(dict.fromkeys(project.problems))
    return project


def _add(
    project: Project,
    paths: tuple[FilePath, ...],
    base: FilePath,
    variables: Mapping[str, str],
    above: tuple[FilePath, ...],
) -> None:
    layers = [Layer(read_compose_file(path), base, variables) for path in paths]
    project.layers += reversed(layers)
    for layer in layers:
        _follow_extends(project, layer)
        includes = layer.file.data.get("include")
        for index, entry in enumerate(includes if isinstance(includes, list) else ()):
            _include(project, layer, ("include", index), entry, (*above, *paths))


def _include(project: Project, layer: Layer, at: Path, entry: Any, above: tuple[FilePath, ...]) -> None:
    """Add the files of one entry of `include`."""
    entry = entry if isinstance(entry, dict) else {"path": entry}
    written = entry.get("path")
    texts = [substitute(text, layer.variables) for text in _texts(written)]
    paths = []
    for text in texts:
        path = _found(project, layer, at, text, "included")
        if path is not None and path in above:
            hint = "remove one of the includes of this circle"
            project.problems.append(layer.file.problem(at, "this file is included by itself, over others or not", hint))
            path = None
        paths += [path] if path is not None else []
    if not texts or len(paths) != len(texts):
        return
    directory = entry.get("project_directory")
    base = (
        _joined(layer.base, substitute(directory, layer.variables)) if isinstance(directory, str) else paths[0].parent
    )
    env_files = [_joined(layer.base, substitute(text, layer.variables)) for text in _texts(entry.get("env_file"))]
    for path in env_files:
        if not path.exists():
            message = "the env file of this include does not exist"
            project.problems.append(layer.file.problem(at, message, "write it, or remove env_file from the include"))
    variables: dict[str, str] = {}
    for path in env_files or [base / ".env"]:
        variables |= read_env_file(path)
    _add(project, tuple(paths), base, {**variables, **layer.variables}, above)


def _follow_extends(project: Project, layer: Layer) -> None:
    """Add the files that `extends` of a file's services names, and those that those name."""
    for name, service in layer.file.services.items():
        extends = service.get("extends") if isinstance(service, dict) else None
        if not isinstance(extends, dict) or not isinstance(extends.get("file"), str):
            continue
        at: Path = ("services", name, "extends", "file")
        path = _found(project, layer, at, substitute(extends["file"], layer.variables), "extended")
        key = (layer.file.path, name)
        if path is None or key in project.extended:
            continue
        same = next((known for known in project.extended.values() if known.file.path == path), None)
        project.extended[key] = same or Layer(read_compose_file(path), path.parent, layer.variables)
        _follow_extends(project, project.extended[key])


def _found(project: Project, layer: Layer, at: Path, text: str, how: str) -> FilePath | None:
    """The path that a file names; a problem where it is elsewhere or nowhere."""
    if "$" in text:
        return None  # nested variables: Compose finds it or says that it cannot; what stands in it has no place then
    if text.startswith(_REMOTE):
        message, hint = (
            f"a file from elsewhere is {how} here, and is not fetched",
            "copy it beside this one and name that",
        )
    elif not (path := _joined(layer.base, text)).is_file():
        message, hint = f"the file that is {how} here does not exist", "write it, or mend the path; it is relative to"
        hint = f"{hint} {layer.base}"
    else:
        return path
    project.problems.append(layer.file.problem(at, message, hint))
    return None


def _joined(base: FilePath, written: str) -> FilePath:
    """A path as Compose resolves it, without the `..` that lead back, so that one file has one name."""
    return FilePath(os.path.normpath(base / FilePath(written).expanduser()))


def _texts(value: object) -> list[str]:
    """A text or a list of texts, as a list."""
    return [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
