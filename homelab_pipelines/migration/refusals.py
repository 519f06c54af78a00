"""What Compose says when it refuses a project or warns, as problems with a place.

Of Compose's words only those are repeated that are keys and names of the files. Values may be secrets and are left out.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any

from homelab_pipelines.inventory.problems import Path, Problem, did_you_mean, risky, shown
from homelab_pipelines.migration.compose_file import ComposeFile
from homelab_pipelines.migration.env_refusals import env_refusal
from homelab_pipelines.migration.project_files import Layer, Project
from homelab_pipelines.migration.refusal_words import KINDS, REFUSALS, SERVICE_KEYS
from homelab_pipelines.migration.stack import Place, leaves
from homelab_pipelines.migration.variables import references, split, substitute

_LOG_LINE = re.compile(r'^time="[^"]*" level=(?P<level>\w+) msg="(?P<text>.*)"$')
_UNSET = re.compile(r'^The "(?P<name>[^"]+)" variable is not set')
_OBSOLETE = re.compile(r"^(?P<file>.*): the attribute `(?P<key>\w+)` is obsolete")
_IN_SERVICE = re.compile(r'^service "(?P<service>[^"]+)": (?P<key>[\w.\[\]/]+): (?P<said>.+)$')
_IN_PATH = re.compile(r"^(?P<path>[\w.-]+): (?P<said>external\.name is deprecated)")
_PORT_ENTRY = re.compile(
    r"(?:(\[[\da-fA-F:]+\]|\d+\.[\d.]+|[\da-fA-F:]+:):)?((?:\d*(?:-\d+)?:)?\d+(?:-\d+)?)(?:/(?:tcp|udp|sctp))?"
)
_UNNAMED = "this entry"
_WORD = re.compile(r"[^\s\[\]{}(),:;\"'`]+")
_STEP = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")


def refusal_problems(project: Project, messages: str) -> list[Problem]:
    """Why Compose refused the project; at least one problem."""
    text = "\n".join(line for line in messages.splitlines() if not _LOG_LINE.match(line)).strip()
    if in_env_file := env_refusal(project, text):
        return [in_env_file]
    if found := list(_bad_entries(project, text)):
        return found
    for expression, message, hint in REFUSALS:
        if match := re.search(expression, text):
            return [_refused(project, match, text, message, hint)]
    if match := re.search(r"go-yaml load error.* at (?:L\d+\.C\d+-)?L(\d+)\.C(\d+): |(?:line (\d+): )+cannot", text):
        files = list(project.files())
        line, column = (int(match[1] or match[3]), int(match[2] or 1)) if len(files) == 1 else (0, 0)
        tab = "a tab stands where YAML wants spaces" if "tab character" in text else "Compose cannot read this YAML"
        return [
            Problem(str(files[0].path), line, column, tab, "look at this line and the one above: indent with spaces")
        ]
    said = _masked(project, text.splitlines()[0] if text else "it gave no reason")
    hint = "docker compose config says it in full"
    return [Problem(str(_named(project, text).path), 0, 0, f"Compose refuses this project: {said}", hint)]


def _refused(project: Project, match: re.Match[str], text: str, message: str, hint: str) -> Problem:
    parts = {key: value for key, value in match.groupdict().items() if value is not None}
    dotted, service = parts.get("path", ""), parts.get("service")
    file, path = locate(project, dotted) if dotted else (_named(project, text), ())
    if "Circular reference" in text:
        # Compose begins a circle anywhere, each time anew.
        service = next(
            (name for name in file.services if re.search(rf"^ +(extends )?{re.escape(name)} in ", text, re.M)), service
        )
    if service:
        file, path = locate(project, f"services.{service}")
        path = next(
            (longer for key in ("extends", "depends_on") if (longer := (*path, key)) in file.document.places), path
        )
    name = parts.get("top") or parts.get("name") or ""
    if name and (*path, name) in file.document.places:
        path = (*path, name)
    if dotted == "" and not service and not path and name:
        file, path = _variable(project, name) or (file, path)
    key = _key(path, dotted)
    words = {
        "name": "…" if risky(name) else name,
        "quoted": shown(name),
        "named": f" '{key}'" if key != _UNNAMED and _value(file, path) is not None else "",
        "key": key,
        "kind": KINDS.get(parts.get("kind", ""), f"a {parts.get('kind')}"),
        "choices": parts.get("choices", "").replace("|", ", "),
        "cycle": text.partition("detected: ")[2].splitlines()[0] if "detected: " in text else "",
    }
    near = did_you_mean(key, SERVICE_KEYS) if "unknown key" in message and path[:1] == ("services",) else ""
    if "to extend" in message:
        near = did_you_mean(name, file.services)
    return file.problem(path, message.format(**words), near or hint.format(**words))


def _value(file: ComposeFile, path: Path) -> Any:
    """What stands at a path; a key without a value may be a secret in braces, {hunter2}, and is not named."""
    data: Any = file.document.data if path else ""
    for step in path:
        data = data[step]
    return data


def _key(path: Path, dotted: str) -> str:
    words = [str(step) for step in path if isinstance(step, str)] or re.findall(r"[\w-]+", dotted)
    return words[-1] if words and not risky(words[-1]) else _UNNAMED


def _bad_entries(project: Project, text: str) -> Iterator[Problem]:
    """Refusals that name a value and no place: every entry that has become such a value is found by its own text."""
    if "empty section between colons" in text or "empty volume spec" in text or "too many colons" in text:
        for file, path, item, became in _entries(project, "volumes"):
            if "" in split(became, ":")[:2]:
                unset = dict.fromkeys(re.findall(r"\$\{?(\w+)", item)) if item != became else ()
                names = " and ".join(name for name in unset if not _is_set(project, file, name))
                said = f"the variable {names} is not set, and so a part of this mount is empty" if names else ""
                hint = f"set it in .env beside the Compose file: {names}=…" if names else "write source:target"
                yield file.problem(path, said or "a part of this mount is empty", hint)
            elif len(split(became, ":")) > 3:
                yield file.problem(path, "this mount has too many colons", "write it in long form: source, target")
    if re.search(r"invalid ((host|container)?port|ip address|proto)|no port specified", text, re.I):
        for file, path, _, became in _entries(project, "ports"):
            if not _is_port_entry(became):
                yield file.problem(path, "this is no port", "write numbers from 1 to 65535: 8080:80")
    if re.search("container name .* already in use", text):
        named: dict[str, str] = {}
        for file, path, name in _values(project, "container_name"):
            if named.setdefault(str(name), str(path[1])) != path[1]:
                message = f"service {shown(named[str(name)])} has the same container_name"
                yield file.problem(path, message, "give one of them another name")
    if "healthcheck.test must start" in text:
        for file, path, test in _values(project, "healthcheck", "test"):
            if isinstance(test, list) and test[:1] not in (["CMD"], ["CMD-SHELL"], ["NONE"]):
                yield file.problem(
                    path, "the test's first word is none that Compose knows", "write CMD, CMD-SHELL or NONE"
                )
    if "invalid mount config" in text:
        for file, path, volumes in _values(project, "volumes"):
            for index, volume in enumerate(volumes if isinstance(volumes, list) else ()):
                if isinstance(volume, dict) and volume.get("type") == "bind" and not volume.get("source"):
                    yield file.problem((*path, index), "this bind mount has no source", "add source: and a path")
    if "confusing device mapping" in text:
        for file, path, _, became in _entries(project, "devices"):
            if became.count(":") > 2:
                yield file.problem(path, "this device has too many colons", "write it as source, target, permissions")


def _is_set(project: Project, file: ComposeFile, name: str) -> bool:
    layers = (*project.layers, *project.extended.values())
    return any(layer.file is file and layer.variables.get(name) for layer in layers)


def _is_port_entry(text: str) -> bool:
    """Whether a text has the form of a port in short syntax, with numbers that are ports."""
    match = _PORT_ENTRY.fullmatch(text)
    if match is None:
        return False
    try:
        ipaddress.ip_address((match[1] or "::").strip("[]"))
    except ValueError:
        return False
    return all(0 < int(number) < 65536 for number in re.findall(r"\d+", match[2]))


def _entries(project: Project, key: str) -> Iterator[tuple[ComposeFile, Path, str, str]]:
    """Every text in a list of this name in any service, with what it becomes when its variables have their values."""
    for layer in (*project.layers, *project.extended.values()):
        for name, service in layer.file.services.items():
            items = service.get(key) if isinstance(service, dict) else None
            for index, item in enumerate(items if isinstance(items, list) else ()):
                if not isinstance(item, dict | list):
                    yield layer.file, ("services", name, key, index), str(item), substitute(str(item), layer.variables)


def _values(project: Project, *keys: str) -> Iterator[tuple[ComposeFile, Path, Any]]:
    """What stands at these keys in each service that has them."""
    for file in project.files():
        for name in file.services:
            path: Path = ("services", name, *keys)
            if path in file.document.places:
                yield file, path, _value(file, path)


def locate(project: Project, dotted: str) -> tuple[ComposeFile, Path]:
    """The file and path that Compose means with `services.web.ports.[0]` or `services[web].mem_limit`.

    As deep as one of the files has it; where names have dots in them the longest that is there counts.
    """
    steps = [index or word for index, word in _STEP.findall(dotted)]
    best: tuple[ComposeFile, Path] = (project.main.file, ())
    for file in project.files():
        path = _walk(file.document.data, steps)
        if len(path) > len(best[1]) or (path == best[1] and not best[1]):
            best = file, path
    return best


def _walk(data: Any, steps: list[str]) -> Path:
    if isinstance(data, dict):
        for end in range(len(steps), 0, -1):
            if (key := ".".join(steps[:end])) in data:
                return (key, *_walk(data[key], steps[end:]))
    if isinstance(data, list) and steps and steps[0].isdecimal() and int(steps[0]) < len(data):
        return (int(steps[0]), *_walk(data[int(steps[0])], steps[1:]))
    return ()


def _named(project: Project, text: str) -> ComposeFile:
    """The file that a message names; the main file where it names none."""
    fits: Callable[[ComposeFile], bool] = lambda file: str(FilePath(file.path).absolute()) in text  # noqa: E731
    return next((file for file in project.files() if fits(file)), project.main.file)


def _variable(project: Project, name: str) -> tuple[ComposeFile, Path] | None:
    """The first value that has this variable in it."""
    for file in project.files():
        for path, place in file.document.places.items():
            line, column = place.value
            if path and re.search(rf"\$\{{{name}\b", file.text.split("\n")[line - 1][column - 1 :]):
                return file, path
    return None


def _masked(project: Project, text: str) -> str:
    """A message without what stands in quotes, and without words that stand in values of the files: may be secrets."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|`[^`]*`", "…", text)
    values = {word for layer in (*project.layers, *project.extended.values()) for word in _words_of_values(layer)}
    words = (word if not risky(word) and not values & set(_WORD.findall(word)) else "…" for word in text.split())
    return " ".join(words)


def _words_of_values(layer: Layer) -> Iterator[str]:
    for _, value in leaves(layer.file.document.data):
        yield from _WORD.findall(str(value))
    for value in layer.variables.values():
        yield from _WORD.findall(value)


def warning_problems(project: Project, messages: str) -> Iterator[Problem]:
    """What Compose warns of, each at its place; variables that are not set at every place that uses them."""
    said = [match for line in messages.splitlines() if (match := _LOG_LINE.match(line))]
    texts = list(dict.fromkeys(re.sub(r"\\(.)", r"\1", match["text"]) for match in said if match["level"] == "warning"))
    unset = frozenset(match["name"] for text in texts if (match := _UNSET.match(text)))
    yield from unset_variables(project, unset)
    for text in texts:
        if _UNSET.match(text) or "for boolean is not supported" in text:
            continue  # each has its places: here, and in `silences`
        if match := _OBSOLETE.match(text):
            hint = "remove the line"
            for file in project.files():
                if str(FilePath(file.path).absolute()) == match["file"]:
                    yield file.problem((match["key"],), f"Compose ignores {match['key']}", hint)
        elif match := _IN_SERVICE.match(text):
            file, path = locate(project, f"services.{match['service']}.{match['key']}")
            yield file.problem(path, f"Compose ignores this: {match['said']}", "it has its meaning in a Swarm only")
        elif match := _IN_PATH.match(text):
            file, path = locate(project, match["path"])
            yield file.problem(path, match["said"], "write name: and external: true")
        else:
            yield Problem(
                str(_named(project, text).path),
                0,
                0,
                f"Compose warns: {_masked(project, text)}",
                "docker compose config says it in full",
            )


def _within_a_word(file: ComposeFile, place: Place) -> bool:
    """Whether a reference without braces stands right behind a letter, a digit or a mark that passwords have."""
    line = file.text.split("\n")[place.line - 1]
    return not line.startswith("{", place.column) and bool(re.search(r"[\w!#%&*+?^~]\$$", line[: place.column]))


def unset_variables(project: Project, names: frozenset[str]) -> Iterator[Problem]:
    """Each place that uses a variable of `names`, which are those that Compose found without a value."""
    missing = set(names)
    scopes = {layer.file.path: layer.variables for layer in (*project.layers, *project.extended.values())}
    for file in project.files() if names else ():
        for name, place in references(file, names - scopes[file.path].keys()):
            missing.discard(name)
            message = f"the variable {name} is not set; Compose puts nothing in its place"
            hint = f"set it in .env beside the Compose file: {name}=…"
            if _within_a_word(file, place):
                # pa$word: what follows may be part of a secret.
                message = "a $ within a word begins the name of a variable that is not set, and that part is lost"
                hint = "a $ itself is written $$; a variable ${NAME}"
            yield Problem(place.file, place.line, place.column, message, hint)
    main = project.main.file
    for name in sorted(missing):
        yield Problem(str(main.path), 0, 0, f"the variable {name} is not set", f"set it in .env: {name}=…")
