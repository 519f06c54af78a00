"""What lies at a path of the machine that converts. A path that cannot be looked at counts as absent."""

from __future__ import annotations

from pathlib import Path


def is_file(path: str) -> bool:
    """Whether there is a regular file that this user can see."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str) -> bool:
    """Whether there is a folder that this user can see."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False
