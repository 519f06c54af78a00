"""`read_stack`: a Compose project read as Compose reads it, with the place of its values, or every mistake in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path as FilePath

from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.compose_program import resolve
from homelab_pipelines.migration.project_files import compose_files
from homelab_pipelines.migration.stack import Stack, StackInvalid


def read_stack(path: FilePath, name: str | None = None, environment: Mapping[str, str] | None = None) -> Stack:
    """Read the Compose project at `path`: a Compose file, or a folder with one and perhaps its override file.

    `name` is what the stack is called here; by default Compose's own name of the project. `environment` holds the
    variables that are set beside the project's `.env`, and before it. Raises StackInvalid with every mistake, and
    ProgramMissing when there is no Compose to ask.
    """
    files = compose_files(path)
    folder = files[0].parent
    answer = resolve(folder, files, environment or {})
    if answer.status:
        raise StackInvalid((Problem(str(files[0]), 0, 0, answer.messages),))
    model = json.loads(answer.output)
    return Stack(name or model["name"], folder, files, model, {})
