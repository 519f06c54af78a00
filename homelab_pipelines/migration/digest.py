"""What makes two readings of a stack the same, and two conversions of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

from homelab_pipelines.migration.kompose import KomposeOutput
from homelab_pipelines.migration.manifests import committed
from homelab_pipelines.migration.stack import Stack


def stack_digest(stack: Stack) -> str:
    """SHA-256 of the model, the Compose files and the env files, in hexadecimal; the same wherever the folder lies.

    Env files are not in the model, but what they say reaches the containers all the same.
    """
    digest = hashlib.sha256()
    model = json.dumps(stack.model, sort_keys=True, separators=(",", ":"))
    digest.update(model.replace(str(stack.folder), ".").encode())
    for path in (*stack.files, *_env_files(stack)):
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"absent")
    return digest.hexdigest()


def kompose_digest(kompose: KomposeOutput) -> str:
    """SHA-256 of Kompose's files, with its version. They hold secrets, but among much else."""
    return _digest({"version": kompose.version.encode(), **kompose.files})


def conversion_digest(made: Mapping[str, bytes]) -> str:
    """SHA-256 of those files of a conversion that may be committed: with the secrets it would help to guess them."""
    return _digest(committed(made))


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(repr((name, hashlib.sha256(content).hexdigest())).encode())
    return digest.hexdigest()


def _env_files(stack: Stack) -> Iterator[FilePath]:
    for service in (stack.model.get("services") or {}).values():
        yield from (FilePath(entry.get("path") or "") for entry in service.get("env_file") or ())
