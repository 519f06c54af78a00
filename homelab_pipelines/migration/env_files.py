"""Env files merged with `environment` as Compose does it: by Compose itself, on a small project made for that."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.compose_program import compose_config
from homelab_pipelines.migration.stack import Stack, StackInvalid


def merged_environments(stack: Stack, files: Mapping[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The environment of each service in `files`, with these env files; values with `$$` as in a model.

    Raises StackInvalid where an env file cannot be read as one.
    """
    if not files:
        return {}
    services = {
        name: {
            "image": "none",
            "env_file": entries,
            "environment": dict(stack.model["services"][name].get("environment") or {}),
        }
        for name, entries in files.items()
    }
    with tempfile.TemporaryDirectory(prefix="env-files-") as scratch:
        project = Path(scratch) / "compose.json"
        project.write_text(json.dumps({"services": services}), encoding="utf-8")
        answer = compose_config(stack.folder, (project,), {})
    if answer.status:
        raise StackInvalid(tuple(_problems(stack, files)))
    resolved = json.loads(answer.output)["services"]
    return {
        name: {key: value for key, value in (resolved[name].get("environment") or {}).items() if value is not None}
        for name in files
    }


def _problems(stack: Stack, files: Mapping[str, list[dict[str, Any]]]) -> list[Problem]:
    """One for each env file that may be the cause: Compose's own words could repeat a secret of the file."""
    found = []
    for name in files:
        place = stack.place(("services", name, "env_file"))
        message = f"an env file of the service '{name}' cannot be read as Compose reads it"
        hint = "each line is NAME=value; a value with quotes needs both; docker compose config says more"
        found.append(Problem(place.file, place.line, place.column, message, hint))
    return found
