"""Which files make up a Compose project."""

from __future__ import annotations

from pathlib import Path as FilePath

from homelab_pipelines.inventory.problems import Problem
from homelab_pipelines.migration.stack import StackInvalid

# In the order in which Compose looks for them (compose-go, cli/options.go: DefaultFileNames, DefaultOverrideFileNames).
FILE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)


def compose_files(path: FilePath) -> tuple[FilePath, ...]:
    """The Compose file at `path`, or that of the folder at `path` with its override file; absolute.

    Raises StackInvalid when there is none.
    """
    path = path.absolute()
    if path.is_file():
        return (path,)
    if not path.is_dir():
        message = "there is no such file or folder"
        raise StackInvalid((Problem(str(path), 0, 0, message, "name a Compose file, or the folder it is in"),))
    found = next((path / name for name in FILE_NAMES if (path / name).is_file()), None)
    if found is None:
        hint = f"it has to be called {FILE_NAMES[0]}; a file with another name can be named itself"
        raise StackInvalid((Problem(str(path), 0, 0, "there is no Compose file in this folder", hint),))
    override = next((path / name for name in OVERRIDE_NAMES if (path / name).is_file()), None)
    return (found, override) if override else (found,)
