"""A conversion on disk: a Kustomize base with overlays dev and prod, Kompose's own files, and the loss report.

The same conversion gives the same bytes. What holds secrets is readable by its owner alone, and ignored by Git.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from homelab_pipelines.migration.account import markdown, report
from homelab_pipelines.migration.convert import Conversion
from homelab_pipelines.migration.draft import Object
from homelab_pipelines.migration.errors import MigrationError

MARKER, REPORT = "report.json", "REPORT.md"
_SECRET_FOLDERS = ("base/secrets", "kompose")
_IGNORED = "# Secrets in plain text: never commit them.\n/base/secrets/\n/kompose/\n"


class FolderTaken(MigrationError):
    """The folder to write to holds something else."""


def write(made: Mapping[str, bytes], folder: Path) -> None:
    """Write `files` of a conversion into `folder`, in place of a former one, which is there until the new one is whole.

    Who is killed between the two renames at the end leaves the former one beside, in a hidden folder of the same name.
    Raises FolderTaken when there is something that is no conversion, OSError when it cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or (folder / MARKER).is_file())):
        why = "it is there, and holds something that is no conversion"
        raise FolderTaken(f"writing {folder}", why, "name a new or empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        aside = Path(scratch) / "new"
        for name, content in made.items():
            _write_file(aside / name, content, secret=name.startswith(_SECRET_FOLDERS))
        former = Path(scratch) / "old"
        try:
            if folder.exists():
                folder.rename(former)
            aside.rename(folder)
        except BaseException:  # an interrupt, too: the scratch folder, which goes now, may hold the former one
            if former.exists() and not folder.exists():
                former.rename(folder)
            raise


def files(conversion: Conversion) -> dict[str, bytes]:
    """Every file of a conversion by its path."""
    found: dict[str, bytes] = {".gitignore": _IGNORED.encode()}
    names = []
    for each in conversion.objects:
        name = f"{each['kind'].lower()}-{each['metadata']['name']}.yaml"
        names.append(name)
        found[f"base/{name}"] = _yaml(each)
    generators = []
    for secret, contents in sorted(conversion.secrets.items()):
        entries = []
        for key, content in sorted(contents.items()):
            found[f"base/secrets/{secret}/{key}"] = content
            entries.append(f"{key}=secrets/{secret}/{key}")
        generators.append({"name": secret, "namespace": conversion.namespace, "files": entries})
    found["base/kustomization.yaml"] = _yaml(_kustomization(resources=names, secretGenerator=generators))
    found["overlays/prod/kustomization.yaml"] = _yaml(
        _kustomization(resources=["../../base"], namespace=conversion.namespace)
    )
    found["overlays/dev/kustomization.yaml"] = _yaml(_dev(conversion))
    for name, content in conversion.kompose.files.items():
        found[f"kompose/{name}"] = content
    said = [*(f"withheld: {line}" for line in conversion.kompose.withheld), *conversion.kompose.warnings]
    found["kompose/messages.txt"] = "".join(
        f"{line}\n" for line in (f"kompose {conversion.kompose.version}", *said)
    ).encode()
    found[REPORT] = markdown(conversion).encode()
    found[MARKER] = (json.dumps(report(conversion), indent=1, ensure_ascii=False) + "\n").encode()
    return found


def committed(made: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those `files` of a conversion that may be committed: all but those that hold secrets."""
    return {name: content for name, content in made.items() if not name.startswith(_SECRET_FOLDERS)}


def _kustomization(**fields: Any) -> Object:
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    return head | {key: value for key, value in fields.items() if value}


def _dev(conversion: Conversion) -> Object:
    """The stack in a namespace of its own: it takes no route, address or port from the one in use, nor its NFS data."""
    patches = []
    for each in conversion.objects:
        target = {"kind": each["kind"], "name": each["metadata"]["name"]}
        reference = {"apiVersion": each["apiVersion"], "kind": each["kind"], "metadata": {"name": target["name"]}}
        if each["kind"] == "IngressRoute":
            patches.append({"target": target, "patch": _yaml({"$patch": "delete", **reference}).decode()})
        elif each["kind"] == "Service" and each["spec"].get("type") == "LoadBalancer":
            change = [{"op": "replace", "path": "/spec/type", "value": "ClusterIP"}]
            patches.append({"target": target, "patch": _yaml(change).decode()})
        elif apart := _set_apart(each):
            patches.append({"target": target, "patch": _yaml(apart).decode()})
    return _kustomization(resources=["../../base"], namespace=f"{conversion.namespace[:59]}-dev", patches=patches)


def _set_apart(each: Object) -> list[Object]:
    """What to change of a workload so that it touches neither the node's own ports nor data that is in use."""
    spec = each.get("spec", {}).get("template", {}).get("spec", {})
    where = "/spec/template/spec"
    keys = ("hostNetwork", "dnsPolicy") if spec.get("hostNetwork") else ()
    changes: list[Object] = [{"op": "remove", "path": f"{where}/{key}"} for key in keys]
    for index, volume in enumerate(spec.get("volumes", ())):
        if "nfs" in volume:
            value = {"name": volume["name"], "emptyDir": {}}
            changes.append({"op": "replace", "path": f"{where}/volumes/{index}", "value": value})
    return changes


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, lists below their key, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text and not any(line.endswith((" ", "\t")) for line in text.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(value: Mapping[str, Any] | list[Any]) -> bytes:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000, encoding="utf-8")


def _write_file(path: Path, content: bytes, *, secret: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if secret else 0o777)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o666), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
