"""What Compose takes in silence, and a person should know before a stack is moved: as warnings with their places."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from homelab_pipelines.inventory.problems import Path, Problem, shown
from homelab_pipelines.migration.project_files import Project
from homelab_pipelines.migration.stack import Stack
from homelab_pipelines.migration.variables import references

# Mappings of a service whose values Compose makes text: 0777 becomes 511, 1.10 becomes 1.1.
_TEXT_MAPPINGS = ("environment", "labels", "annotations", "sysctls")
_WORD_FOR_TRUTH = re.compile(r"\w+:\s+(y|yes|no?|on|off)\s*([,}#]|$)", re.I)


def silence_problems(project: Project, stack: Stack) -> Iterator[Problem]:
    """All of them, service by service."""
    for name, service in (stack.model.get("services") or {}).items():
        at: Path = ("services", name)
        if profiles := service.get("profiles"):
            message = (
                f"service '{name}' runs only with profile {' or '.join(map(str, profiles))}; it is read all the same"
            )
            yield _at(stack, (*at, "profiles"), message, "remove the service here if it is not in use")
        yield from _optional_env_files(stack, at, service)
        yield from _inherited(project, stack, at, service)
    yield from _absent_files(stack)
    yield from _changed_numbers(project, stack)
    yield from _words_for_truth(project, stack)
    yield from _said_twice(project)
    yield from _unused(project, stack)
    yield from _of_the_reader(project)


def missing_env_files(stack: Stack) -> Iterator[Problem]:
    """The env files that are required and not there: with them Compose refuses to start the service."""
    for at, path, required in _env_files(stack):
        if required and not path.is_file():
            message = f"the env file {shown(path.name)} does not exist, and the service does not start without it"
            yield _at(stack, at, message, "write it, or say required: false")


def _env_files(stack: Stack) -> Iterator[tuple[Path, FilePath, bool]]:
    for name, service in (stack.model.get("services") or {}).items():
        for index, entry in enumerate(service.get("env_file") or ()):
            yield ("services", name, "env_file", index), FilePath(entry.get("path") or ""), entry.get("required", True)


def _optional_env_files(stack: Stack, at: Path, service: dict[str, Any]) -> Iterator[Problem]:
    for index, entry in enumerate(service.get("env_file") or ()):
        if entry.get("required") is False and not FilePath(entry.get("path") or "").is_file():
            message = "this env file does not exist; it is not required, so Compose goes on without it"
            yield _at(stack, (*at, "env_file", index), message, "write it if the service needs it")


def _inherited(project: Project, stack: Stack, at: Path, service: dict[str, Any]) -> Iterator[Problem]:
    """Variables that are named without a value: those come from .env, or from whoever starts Compose."""
    known = project.main.variables
    for variable, value in (service.get("environment") or {}).items():
        if value is None and variable not in known:
            path = (*at, "environment", variable)
            if re.fullmatch(r"[A-Za-z_]\w*", variable):
                message = (
                    f"{variable} has no value here: it comes from the shell that starts Compose, and is not in .env"
                )
                yield _at(stack, path, message, f"set it in .env: {variable}=…, or remove it")
            else:
                # PASSWORD:secret is the name of a variable to Compose; it is not repeated.
                yield _at(stack, path, "this is no NAME=value, and the whole becomes a name", "write NAME=value")


def _absent_files(stack: Stack) -> Iterator[Problem]:
    """Secrets and configs whose file is not there: Compose says so only when it starts the service."""
    for section in ("secrets", "configs"):
        for name, entry in (stack.model.get(section) or {}).items():
            if entry.get("file") and not FilePath(entry["file"]).is_file():
                message = f"the file of {section} entry {shown(name)} does not exist"
                yield _at(stack, (section, name, "file"), message, "write it; without it the service does not start")


def _changed_numbers(project: Project, stack: Stack) -> Iterator[Problem]:
    """Unquoted numbers that become another text than is written."""
    services = stack.model.get("services") or {}
    for file in project.files():
        for path, written in file.document.plain.items():
            if len(path) == 4 and path[0] == "services" and path[2] in _TEXT_MAPPINGS:
                became = ((services.get(path[1]) or {}).get(path[2]) or {}).get(path[3])
                if written and isinstance(became, str) and became != written and file.place(path) == stack.place(path):
                    message = f"{path[3]} is a number without quotes, and becomes another text than is written here"
                    yield file.problem(path, message, "put it into quotes")


def _words_for_truth(project: Project, stack: Stack) -> Iterator[Problem]:
    """`yes`, `on` and the like where Compose wants true or false: it takes them, YAML 1.2 has them as text."""
    for path, value in stack.leaves():
        if isinstance(value, bool) and path in stack.places:
            place = stack.places[path]
            file = next(file for file in project.files() if str(file.path) == place.file)
            line = file.text.split("\n")[place.line - 1][place.column - 1 :]
            if _WORD_FOR_TRUTH.match(line):
                message = f"{path[-1]} is {str(value).lower()} to Compose, and a text to readers of YAML 1.2"
                yield _at(stack, path, message, f"write {str(value).lower()}")


def _said_twice(project: Project) -> Iterator[Problem]:
    """Variables and labels that a list has twice."""
    for file in project.files():
        for name, service in file.services.items():
            for key in ("environment", "labels") if isinstance(service, dict) else ():
                items = service.get(key)
                seen: set[str] = set()
                for index, item in enumerate(items if isinstance(items, list) else ()):
                    word = str(item).partition("=")[0]
                    if word in seen:
                        message = f"{shown(word)} is in this list twice; Compose takes the last"
                        yield file.problem(("services", name, key, index), message, "remove one of the two")
                    seen.add(word)


def _unused(project: Project, stack: Stack) -> Iterator[Problem]:
    """Networks, volumes, secrets and configs that no service uses: Compose leaves them out of the model."""
    for layer in project.layers:
        for section in ("networks", "volumes", "secrets", "configs"):
            entries = layer.file.data.get(section)
            for name in entries if isinstance(entries, dict) else ():
                if name not in (stack.model.get(section) or {}):
                    message = f"no service uses this entry of {section}; Compose leaves it out"
                    yield layer.file.problem((section, name), message, "remove it, or name it in a service")


def _of_the_reader(project: Project) -> Iterator[Problem]:
    """What Compose takes from whoever reads the files, the home folder and PATH: on the host they may be others."""
    for layer in (*project.layers, *project.extended.values()):
        file = layer.file
        if "$HOME" in file.text or "${HOME" in file.text or "PATH" in file.text:
            for name, place in references(file, frozenset({"HOME", "PATH"}) - layer.variables.keys()):
                message = f"{name} is that of whoever reads this file, and may be another on the host"
                yield Problem(place.file, place.line, place.column, message, f"set it in .env: {name}=…")
        for name, service in file.services.items():
            volumes = service.get("volumes") if isinstance(service, dict) else None
            for index, mount in enumerate(volumes if isinstance(volumes, list) else ()):
                source = mount.get("source") if isinstance(mount, dict) else mount
                if isinstance(source, str) and re.match(r"~(/|:|$)", source):
                    message = "~ is the home folder of whoever reads this file, and may be another on the host"
                    yield file.problem(("services", name, "volumes", index), message, "write the path in full")


def _at(stack: Stack, path: Path, message: str, hint: str) -> Problem:
    place = stack.place(path)
    return Problem(place.file, place.line, place.column, message, hint)
