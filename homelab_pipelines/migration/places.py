"""Where each value of a resolved Compose model was written: the model's paths, followed through the files.

A path of the model is looked for in every file that says something of its service or resource, the strongest first.
Lists, whose entries Compose merges and writes out, are followed by what an entry is, not by its number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.compose_file import ComposeFile
from homelab_pipelines.migration.project_files import Layer, Project
from homelab_pipelines.migration.stack import Place
from homelab_pipelines.migration.variables import pattern, split

# The sections whose entries Compose merges by name over all files, and that `include` brings along.
_RESOURCES = ("services", "networks", "volumes", "secrets", "configs", "models")
# Entries of lists in long form, by what makes two of them the same (compose-go, override/uncity.go).
_IDENTITIES: Mapping[str, tuple[str, ...]] = {
    "volumes": ("target",),
    "devices": ("target",),
    "secrets": ("source", "target"),
    "configs": ("source", "target"),
    "ports": ("target", "published", "protocol"),
    "env_file": ("path",),
}
_Source = tuple[ComposeFile, Path]


def find_places(project: Project, model: Mapping[str, Any]) -> dict[Path, Place]:
    """The places of all paths of the model that are written somewhere; what Compose made up is not among them."""
    places: dict[Path, Place] = {}
    whole: list[_Source] = [(layer.file, ()) for layer in project.layers]
    for key, value in model.items():
        if key in _RESOURCES and isinstance(value, Mapping):
            for name, resource in value.items():
                sources = list(_sources(project, key, name))
                places |= _below(sources, (key, name), resource)
            if section := next((file.place((key,)) for file, _ in whole if key in file.data), None):
                places[(key,)] = section
        else:
            places |= _below([(file, (key,)) for file, _ in whole if key in file.data], (key,), value)
    return places


def _sources(project: Project, key: str, name: str) -> Iterator[_Source]:
    """Every place in the files that defines a resource, the strongest first; for a service with what it extends."""
    for layer in project.layers:
        section = layer.file.data.get(key)
        if isinstance(section, dict) and name in section:
            yield layer.file, (key, name)
            if key == "services":
                yield from _extended(project, layer, name, ())


def _extended(project: Project, layer: Layer, name: str, above: tuple[tuple[object, str], ...]) -> Iterator[_Source]:
    service = layer.file.services.get(name)
    extends = service.get("extends") if isinstance(service, dict) else None
    base = extends.get("service") if isinstance(extends, dict) else extends
    where = project.extended.get((layer.file.path, name), layer)
    if isinstance(base, str) and base in where.file.services and (where.file.path, base) not in above:
        yield where.file, ("services", base)
        yield from _extended(project, where, base, (*above, (where.file.path, base)))


def _below(sources: Sequence[_Source], path: Path, value: Any) -> dict[Path, Place]:
    """The places of `path` and of everything below it in the model, as far as the sources lead."""
    if not sources:
        return {}
    file, at = sources[0]
    places = {path: file.place(at)}
    steps = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        further = [found for source in sources for found in _step(source, path, step, below)]
        places |= _below(further, (*path, step), below)
    return places


def _step(source: _Source, path: Path, step: str | int, value: Any) -> Iterator[_Source]:
    """Where one step further down the model is written in one source: a key, an item, or the short form of both."""
    file, at = source
    data = _data(file, at)
    if isinstance(data, dict):
        if isinstance(step, str):
            found = step if step in data else None
        else:
            # A list that may be written as a mapping: extra_hosts, {host: address} for host=address.
            found = next(
                (key for key in data if isinstance(value, str) and value.startswith((f"{key}=", f"{key}:"))), None
            )
        if found is not None:
            yield file, (*at, found)
    elif isinstance(data, list):
        fits = [index for index, item in enumerate(data) if _is_same(item, path, step, value)]
        if not fits and isinstance(step, int) and step < len(data) and isinstance(value, Mapping | list):
            fits = [step] if isinstance(data[step], dict | list) else []
        # Of entries with one key Compose takes the last.
        if fits:
            best = step if step in fits else fits[-1]
            yield file, (*at, best)
    elif data is not None:
        yield file, at  # short syntax: the whole stands in one text


def _data(file: ComposeFile, path: Path) -> Any:
    data = file.document.data
    for step in path:
        data = data[step]
    return data


def _is_same(item: Any, path: Path, step: str | int, value: Any) -> bool:
    """Whether a list's item became the model's entry `step`, which has this value."""
    if isinstance(step, str):
        key = split(_text(item), "=")[0] if not isinstance(item, dict | list) else None
        return key is not None and (key == step or ("$" in key and bool(pattern(key).fullmatch(step))))
    kind = str(path[-1]) if path else ""
    if isinstance(value, Mapping):
        if isinstance(item, dict):
            keys = [key for key in _IDENTITIES.get(kind, ()) if key in item]
            return bool(keys) and all(_fits(item[key], value.get(key)) for key in keys)
        return not isinstance(item, list) and _is_short_form(_text(item), kind, value)
    return not isinstance(item, dict | list) and _fits(item, value)


def _is_short_form(text: str, kind: str, value: Mapping[str, Any]) -> bool:
    """Whether a text is the short syntax of an entry: "8080:80/tcp", "data:/var/lib/data:ro", a name, a path."""
    if kind == "ports":
        return _is_port(text, value)
    parts = split(text, ":")
    if kind in ("volumes", "devices"):
        target = parts[0] if len(parts) == 1 else parts[1]
        return _fits(target, value.get("target")) or _fits(target.rstrip("/"), value.get("target"))
    if kind == "env_file":
        return _is_end(text, value.get("path"))
    return _fits(text, value.get("source"))


def _is_port(text: str, value: Mapping[str, Any]) -> bool:
    pair, _, protocol = text.partition("/") if "${" not in text.rpartition("/")[0] else text.rpartition("/")
    if not pair:
        pair, protocol = text, ""
    parts = split(pair, ":")
    published = parts[-2] if len(parts) > 1 else None
    return (
        _in_range(parts[-1], value.get("target"))
        and (published is None or _in_range(published, value.get("published")))
        and (not protocol or _fits(protocol, value.get("protocol")))
        and (len(parts) < 3 or _fits(":".join(parts[:-2]).strip("[]"), value.get("host_ip")))
    )


def _in_range(text: str, value: object) -> bool:
    first, _, last = text.partition("-")
    if first.isdecimal() and last.isdecimal() and str(value).isdecimal():
        return int(first) <= int(str(value)) <= int(last)
    return _fits(text, value)


def _fits(written: object, value: object) -> bool:
    """Whether a written scalar can have become this value: as it is, through its variables, or as a resolved path."""
    text, became = _text(written), _text(value)
    if isinstance(value, str) and "=" in became and text == became.replace("=", ":", 1):
        return True  # extra_hosts, written with a colon
    return text == became or ("$" in text and bool(pattern(text).fullmatch(became)))


def _is_end(written: str, value: object) -> bool:
    """Whether a relative path can have become this absolute one."""
    plain = written.removeprefix("./").lstrip("./") or "."
    return _fits(written, value) or bool(pattern(plain).search(_text(value)))


def _text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
