"""Files that are mounted: in a ConfigMap, or in a Secret where their name or content says so.

Accounts for `configs` and `secrets`, of services and top-level.
Kompose encodes binary files twice, and refers to Secrets that nobody makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.complete.claims import mount
from homelab_pipelines.migration.draft import Draft, Object
from homelab_pipelines.migration.secret_words import is_secret_file
from homelab_pipelines.migration.values import literal

# A ConfigMap or Secret holds 1 MiB (kubernetes.io/docs/concepts/configuration/configmap), base64 and keys included.
_MOST_BYTES = 700 * 1024
_MOST_FILES = 40


def apply(draft: Draft) -> None:
    """Mount what services take from the top-level `configs` and `secrets`."""
    for section in ("configs", "secrets"):
        contents = {
            key: _content(draft, section, key, value or {})
            for key, value in (draft.stack.model.get(section) or {}).items()
        }
        for name, entries, path in draft.having(section):
            for index, entry in enumerate(entries):
                _entry(draft, section, name, entry, (*path, index), contents)


def mount_file(draft: Draft, name: str, each: Mapping[str, Any], path: Path) -> None:
    """A bind mount of one file."""
    file = FilePath(literal(each["source"]))
    try:
        content = file.read_bytes()
    except OSError:
        draft.ledger.blocked(path, "this file cannot be read: let this user read it, and convert again")
        return
    if len(content) > _MOST_BYTES:
        draft.ledger.blocked(
            path, "this file is too large for a ConfigMap: mount its folder, so that it becomes a claim"
        )
        return
    if not each.get("read_only") and (not content or b"\0" in content):
        decision = "the service writes into this file, which a ConfigMap does not allow: mount its folder instead"
        draft.ledger.blocked(path, decision)
        return
    kind, object_name = _store(draft, str(file), file.name, content)
    draft.mounted_texts.append((name, content.decode(errors="replace")))
    _mount_key(draft, name, kind, object_name, file.name, literal(each.get("target")), None)
    note = "" if each.get("read_only") else "; it is read-only there"
    draft.ledger.carried(path, f"{kind}/{object_name}{note}")
    if "selinux" in (each.get("bind") or {}):
        draft.ledger.dropped((*path, "bind", "selinux"), "Kubernetes labels volumes itself")


def small_text_files(folder: FilePath) -> dict[str, bytes] | None:
    """The files in a folder by relative path, where they are few, small and text; None where they are data."""
    found: dict[str, bytes] = {}
    size = 0
    try:
        for each in sorted(folder.rglob("*")):
            if each.is_dir():
                continue
            size += each.stat().st_size
            if len(found) >= _MOST_FILES or size > _MOST_BYTES or not each.is_file():
                return None
            content = each.read_bytes()
            content.decode()
            found[each.relative_to(folder).as_posix()] = content
    except (OSError, UnicodeDecodeError):
        return None
    return found


def mount_files(draft: Draft, name: str, each: Mapping[str, Any], files: Mapping[str, bytes], path: Path) -> None:
    """A read-only bind mount of a folder with a few configuration files."""
    source = literal(each["source"])
    texts = {file: content.decode() for file, content in files.items()}
    secret = any(is_secret_file(file, text) or draft.holds_secret(text) for file, text in texts.items())
    draft.mounted_texts += [(name, text) for text in texts.values()]
    object_name = draft.names.name(f"files{_relative(draft, source)}")
    keys = {file: _key(file) for file in files}
    contents = draft.secrets if secret else draft.config
    contents[object_name] = {keys[file]: content for file, content in files.items()}
    items = [{"key": keys[file], "path": file} for file in sorted(files)]
    mount(
        draft,
        name,
        _volume("Secret" if secret else "ConfigMap", object_name, items, None),
        literal(each["target"]),
        readOnly=True,
    )
    draft.ledger.carried(path, f"{'Secret' if secret else 'ConfigMap'}/{object_name}, {len(files)} files")
    if "selinux" in (each.get("bind") or {}):
        draft.ledger.dropped((*path, "bind", "selinux"), "Kubernetes labels volumes itself")


def _content(draft: Draft, section: str, key: str, value: Mapping[str, Any]) -> bytes | None:
    """What a config or secret holds; None where it cannot be had, which blocks."""
    path: Path = (section, key)
    if "labels" in value:
        draft.ledger.dropped((*path, "labels"), "a label of Docker's, which nothing reads on Kubernetes")
    if value.get("external"):
        draft.ledger.blocked(path, "it is kept by Docker Swarm, which does not give it out: name a file instead")
    elif "content" in value:
        draft.ledger.carried(path, f"a {'Secret' if section == 'secrets' else 'ConfigMap'} of the services that use it")
        return literal(value["content"]).encode()
    elif "file" in value:
        try:
            content = FilePath(literal(value["file"])).read_bytes()
        except OSError:
            draft.ledger.blocked(path, "this file is not here, or cannot be read: put it there, and convert again")
            return None
        draft.ledger.carried(path, f"a {'Secret' if section == 'secrets' else 'ConfigMap'} of the services that use it")
        return content
    else:
        draft.ledger.blocked(path, "its value comes from the environment of whoever starts it: name a file instead")
    return None


def _entry(
    draft: Draft, section: str, name: str, entry: Mapping[str, Any], path: Path, contents: Mapping[str, bytes | None]
) -> None:
    source = entry["source"]
    content = contents.get(source)
    if content is None:
        draft.ledger.blocked(path, f"what it holds is not known: see {section}.{source}")
        return
    target = literal(entry.get("target")) or (f"/run/secrets/{source}" if section == "secrets" else f"/{source}")
    target = target if target.startswith("/") else f"/run/secrets/{target}" if section == "secrets" else f"/{target}"
    file = target.rpartition("/")[2]
    draft.mounted_texts.append((name, content.decode(errors="replace")))
    kind = "Secret" if section == "secrets" else "ConfigMap"
    object_name = draft.names.name(f"{section}/{source}")
    (draft.secrets if kind == "Secret" else draft.config).setdefault(object_name, {})[_key(file)] = content
    _mount_key(draft, name, kind, object_name, file, target, entry.get("mode"))
    draft.ledger.carried(path, f"{kind}/{object_name}: {file}")
    for key in ("uid", "gid"):
        draft.ledger.dropped((*path, key), "files of a volume belong to root; their mode lets others read them")


def _store(draft: Draft, source: str, file: str, content: bytes) -> tuple[str, str]:
    object_name = draft.names.name(f"file{_relative(draft, source)}")
    text = content.decode(errors="replace")
    secret = is_secret_file(source, text) or draft.holds_secret(text)
    (draft.secrets if secret else draft.config).setdefault(object_name, {})[_key(file)] = content
    return ("Secret" if secret else "ConfigMap"), object_name


def _mount_key(draft: Draft, name: str, kind: str, object_name: str, file: str, target: str, mode: Any) -> None:
    volume = _volume(kind, object_name, [{"key": _key(file), "path": file}], mode)
    mount(draft, name, volume, target, subPath=file, readOnly=True)


def _volume(kind: str, object_name: str, items: list[dict[str, str]], mode: Any) -> Object:
    octal = int(str(mode), 8) if mode is not None and str(mode).isdecimal() else None
    extra: Object = {"items": items, **({"defaultMode": octal} if octal is not None else {})}
    # The volume's name is its object's; one object is used with the same keys by every mount.
    digest = hashlib.sha256(repr((items, mode)).encode()).hexdigest()[:6]
    volume_name = f"{object_name[:50].rstrip('-')}-{digest}"
    if kind == "Secret":
        return {"name": volume_name, "secret": {"secretName": object_name, **extra}}
    return {"name": volume_name, "configMap": {"name": object_name, **extra}}


def _relative(draft: Draft, source: str) -> str:
    path = FilePath(source)
    return f"/{path.relative_to(draft.stack.folder)}" if path.is_relative_to(draft.stack.folder) else source


def _key(file: str) -> str:
    """A key for a file (of [-._a-zA-Z0-9]); no two files of one folder share it."""
    key = "".join(c if c.isascii() and (c.isalnum() or c in "-._") else "_" for c in file.replace("/", "__"))
    return (
        key
        if key == file or ("/" in file and "_" not in file)
        else f"{key}.{hashlib.sha256(file.encode()).hexdigest()[:6]}"
    )
