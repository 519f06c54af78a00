"""One run of the real Kompose: what it made, what it said, and what it had to be spared.

Kompose 1.38 reads host files and folders that are bind-mounted, ends on keys it does not know how to read
(fatal errors and panics), and takes the environment of whoever runs it. It gets a copy of the resolved model without
what is known to end it, in an environment with nothing of the operator's.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from homelab_pipelines.migration.errors import ProgramMissing
from homelab_pipelines.migration.ledger import dotted
from homelab_pipelines.migration.stack import Stack

PROGRAM_VARIABLE = "HOMELAB_KOMPOSE"
VERSION = "1.38.0"
_SECONDS = 120
# What Kubernetes lets a ConfigMap hold; Kompose makes larger ones all the same.
_MOST_BYTES = 1024 * 1024
_WORKLOADS = ("-deployment.yaml", "-daemonset.yaml", "-pod.yaml")
_LIST = re.compile(r" +(?:- )?(?:containers|volumes|matchExpressions|topologySpreadConstraints):\n")
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


@dataclass(frozen=True)
class KomposeOutput:
    """Kompose's files as it wrote them (see `in_order`), its messages, its version; what it was not given, and why."""

    version: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()

    def objects(self) -> list[dict[str, Any]]:
        """The objects in its files; a file that cannot be read has none."""
        return [each for content in self.files.values() for each in _objects(content) or ()]

    def unreadable(self) -> list[str]:
        """The names of files that hold no object, or something that is none."""
        return [name for name, content in self.files.items() if not _objects(content)]


def _objects(content: bytes) -> list[dict[str, Any]] | None:
    """The objects of one file, each with a kind and a name; None where it is no YAML or holds anything else."""
    try:
        found = [each for each in yaml.safe_load_all(content) if each is not None]
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    sound = all(isinstance(each, dict) and {"kind", "metadata"} <= each.keys() for each in found)
    return found if sound else None


def find_kompose() -> str:
    """The path of Kompose: HOMELAB_KOMPOSE, else on PATH. Raises ProgramMissing."""
    named = os.environ.get(PROGRAM_VARIABLE)
    found = shutil.which(named or "kompose")
    if not found:
        why = f"there is no program at {PROGRAM_VARIABLE}" if named else "there is no Kompose on this machine"
        hint = f"install Kompose {VERSION} (https://kompose.io/installation/), or set {PROGRAM_VARIABLE} to its path"
        raise ProgramMissing("converting a stack", why, hint)
    return found


def run_kompose(stack: Stack) -> KomposeOutput:
    """Convert the model of `stack` with Kompose. Services that end it are left out, and named in `withheld`."""
    program = find_kompose()
    version = _version(program)
    model, withheld = presentable(stack)
    done, files, said = _convert(program, model)
    if not done:
        said = tuple(f"with all services: {line}" for line in said)
        for name in sorted(model["services"]):
            alone = {**model, "services": {name: _alone(model["services"][name])}}
            sound, _, why = _convert(program, alone)
            if not sound:
                withheld.append(f"services.{name}: Kompose ends on it: {_last(why)}")
                said += tuple(f"{name} alone: {line}" for line in why)
        ending = {line.split(": ")[0].removeprefix("services.") for line in withheld if "Kompose ends" in line}
        rest = {name: service for name, service in model["services"].items() if name not in ending}
        for service in rest.values():
            service.pop("depends_on", None)
        if rest and ending:
            _, files, more = _convert(program, {**model, "services": rest})
            said += more
    return KomposeOutput(version, files, said, tuple(withheld))


def presentable(stack: Stack) -> tuple[dict[str, Any], list[str]]:
    """A copy of the model without what Kompose is known to end on or must not read, and what that is.

    Profiles are taken out, so that their services are converted; bind mounts of folders, of large files and of
    files outside the stack's folder, because Kompose would put their contents into ConfigMaps.
    """
    model: dict[str, Any] = copy.deepcopy(dict(stack.model))
    withheld: list[str] = []
    for name, service in (model.get("services") or {}).items():
        service.pop("profiles", None)
        for key, why in _fatal(service):
            service.pop(key)
            withheld.append(f"services.{name}.{key}: {why}")
        for key, unwanted in (("volumes", _unwanted_volume), ("env_file", _missing_file)):
            kept = []
            for index, each in enumerate(service.get(key) or ()):
                reason = unwanted(each, stack.folder)
                if reason:
                    withheld.append(f"{dotted(('services', name, key, index))}: {reason}")
                else:
                    kept.append(each)
            if key in service:
                service[key] = kept
    return model, withheld


def _fatal(service: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    check = service.get("healthcheck")
    if check and not check.get("disable") and (check.get("test") or ["NONE"])[0] == "NONE":
        found.append(("healthcheck", "Kompose panics on a health check without a command"))
    if str(service.get("restart", "")).startswith("on-failure:"):
        found.append(("restart", "Kompose ends on on-failure with a count"))
    if any(not str(group).isdecimal() for group in service.get("group_add") or ()):
        found.append(("group_add", "Kompose ends on a group that is no number"))
    return found


def _unwanted_volume(volume: Mapping[str, Any], folder: Path) -> str:
    if volume.get("type") != "bind":
        return ""
    path = Path(str(volume.get("source", "")).replace("$$", "$"))
    try:
        if path.is_dir():
            return "Kompose would read the folder's files into a ConfigMap, or end on a folder in it"
        if path.is_file() and folder not in path.parents:
            return "Kompose would put a file of this machine into a ConfigMap"
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            return "the file is larger than a ConfigMap may be"
    except OSError:
        return "the file cannot be read"
    return ""


def _missing_file(entry: Mapping[str, Any], _: Path) -> str:
    path = Path(str(entry.get("path", "")).replace("$$", "$"))
    return "" if os.access(path, os.R_OK) and path.is_file() else "Kompose ends on an env file that it cannot read"


def _alone(service: dict[str, Any]) -> dict[str, Any]:
    left_out = ("depends_on", "links", "network_mode", "volumes_from")
    return {key: value for key, value in service.items() if key not in left_out}


def _last(lines: tuple[str, ...]) -> str:
    return next((line for line in lines if "FATA" in line or line.startswith("panic:")), "no reason given")


def _version(program: str) -> str:
    try:
        done = subprocess.run((program, "version"), capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode or not done.stdout.strip():
        raise ProgramMissing("converting a stack", f"{program} does not run as Kompose", f"set {PROGRAM_VARIABLE}")
    return done.stdout.split()[0]


def _convert(program: str, model: Mapping[str, Any]) -> tuple[bool, dict[str, bytes], tuple[str, ...]]:
    """Whether Kompose came to its end, its files and the lines it said, without the scratch folder's name."""
    with tempfile.TemporaryDirectory(prefix="kompose-") as scratch:
        folder = Path(scratch)
        source, target = folder / "compose.json", folder / "out"
        source.write_text(json.dumps(model), encoding="utf-8")
        target.mkdir()
        words = (program, "convert", "--file", str(source), "--out", f"{target}/", "--with-kompose-annotation=false")
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": scratch, "TMPDIR": scratch}
        try:
            done = subprocess.run(
                words, cwd=scratch, env=environment, capture_output=True, text=True, errors="replace", timeout=_SECONDS,
                check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return False, {}, (f"Kompose did not end within {_SECONDS} seconds",)
        files = {path.name: path.read_bytes() for path in sorted(target.iterdir()) if path.is_file()}
        for name in files:
            if name.endswith(_WORKLOADS):
                files[name] = in_order(files[name].decode()).encode()
        return done.returncode == 0, files, _lines(done.stderr, scratch)


def in_order(text: str) -> str:
    """A workload's YAML with the lists sorted that Kompose writes in another order each time; otherwise as it was.

    These are the containers and volumes of services that share a pod, and the terms of an affinity.
    """
    lines = text.splitlines(keepends=True)
    out: list[str] = []
    while lines:
        out.append(lines.pop(0))
        if not _LIST.fullmatch(out[-1]) or not lines or not lines[0].lstrip(" ").startswith("- "):
            continue
        indent = lines[0][: lines[0].index("-")]
        blocks: list[str] = []
        while lines and lines[0].startswith((f"{indent}- ", f"{indent}  ")):
            line = lines.pop(0)
            if line.startswith(f"{indent}- "):
                blocks.append(line)
            else:
                blocks[-1] += line
        out += sorted(blocks)
    return "".join(out)


def _lines(text: str, scratch: str) -> tuple[str, ...]:
    """What Kompose said, sorted, because it walks its services in no order; nothing of a panic's stack."""
    said = _COLOUR.sub("", text).replace(scratch, ".")
    kept = [line.strip() for line in said.splitlines() if line.startswith(("WARN", "FATA", "ERRO", "panic:"))]
    return tuple(sorted(set(kept)))
