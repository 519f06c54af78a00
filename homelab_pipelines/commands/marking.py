"""`homelab mark-target`: the marker file by which `require_mount` knows a mounted disk or share."""

from __future__ import annotations

import os
from pathlib import Path

from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.commands.output import print_json, refuse, say

_WHAT = "marking a target"


def mark_target(name: str, force: bool, as_json: bool) -> int:
    """Mark a directory target; 1, with the reason, when nothing is mounted there.

    A marker in an unmounted mount point would let every later backup fill the disk below it: what `require_mount` is to
    prevent. `force` is for a folder of this machine's own disk. No folder is made either way.
    """
    configured = ConfiguredBackups.from_environment()
    store = configured.store(name) if name in configured.homelab.backups.targets else None
    if not isinstance(store, DirectoryStore):
        known = ", ".join(configured.homelab.backups.targets)
        why = f"{name!r} is not a directory target of the inventory"
        return refuse(2, _WHAT, why, f"one of: {known}" if known else "homelab check", as_json)
    root = store.root
    if not os.path.isdir(root):  # noqa: PTH112 - unlike Path.is_dir it is false, not an error, on a dead mount
        return refuse(1, _WHAT, f"there is no folder {root}", "mount it; mark-target makes no folder", as_json)
    mount = mount_point(root)
    if mount == Path("/") and not force:
        why = f"nothing is mounted at {root}, it is a folder of the root file system"
        next_step = "mount it, then mark it; --force marks it all the same, and require_mount then guards nothing"
        return refuse(1, _WHAT, why, next_step, as_json)
    store.mark()
    say(f"marked {root}, which is on the file system mounted at {mount}")
    if as_json:
        print_json({"target": name, "location": store.location("")})
    return 0


def mount_point(folder: Path) -> Path:
    """The nearest of a folder and its parents where a file system is mounted; links are followed first."""
    real = Path(os.path.realpath(folder))
    return next(each for each in (real, *real.parents) if os.path.ismount(each))
