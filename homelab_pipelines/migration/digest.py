"""What makes two readings of a stack the same: the resolved model and the bytes of the files it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path as FilePath

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


def _env_files(stack: Stack) -> Iterator[FilePath]:
    for service in (stack.model.get("services") or {}).values():
        yield from (FilePath(entry.get("path") or "") for entry in service.get("env_file") or ())
