"""`homelab init`: the commented homelab.yaml on disk. Written aside and renamed; what was there before is kept."""

from __future__ import annotations

import os
import shlex
from itertools import count
from pathlib import Path

from homelab_pipelines.commands.output import print_json, refuse, say
from homelab_pipelines.inventory.template import commented_template


def write_template(path: Path, force: bool, as_json: bool) -> int:
    """Write the template to `path`; 1, with the reason, when it is not written. Nothing is ever overwritten."""
    try:
        return _write(path, force, as_json)
    except FileNotFoundError:
        return _refuse(path, "there is no such folder", f"mkdir -p {shlex.quote(str(path.parent))}", as_json)
    except OSError as error:
        why = str(error.strerror or error).lower()
        return _refuse(
            path, why, f"let this user write to {path.parent}, or name another place: homelab --inventory", as_json
        )


def _write(path: Path, force: bool, as_json: bool) -> int:
    if path.is_symlink():
        if not path.exists():
            return _refuse(path, "it is a link to something that is not there", "remove the link", as_json)
        path = path.resolve()  # the link stays: it is the file behind it that is replaced
    there = path.exists()
    if there and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file"
        return _refuse(path, f"it is {kind}", f"name a file: homelab --inventory {path / 'homelab.yaml'} init", as_json)
    if there and not force:
        return _refuse(path, "it is there already", "edit it, or homelab init --force, which keeps the former", as_json)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    kept = None
    try:
        aside.write_text(commented_template(), encoding="utf-8")
        kept = _move_aside(path) if there else None
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        if kept is not None:
            kept.rename(path)
        raise
    if kept is not None:
        say(f"the former one is {kept}")
    say(f"wrote {path}\n  next: fill it in, then homelab check")
    if as_json:
        print_json({"written": str(path), "kept": str(kept) if kept else None})
    return 0


def _move_aside(path: Path) -> Path:
    """Rename a file to homelab.yaml.old, or to .old.2, .old.3 … where there is one of that name; its new path."""
    names = (f"{path.name}.old{'' if number == 1 else f'.{number}'}" for number in count(1))
    kept = next(place for name in names if not os.path.lexists(place := path.with_name(name)))
    return path.rename(kept)


def _refuse(path: Path, why: str, next_step: str, as_json: bool) -> int:
    return refuse(1, f"writing {path}", why, next_step, as_json)
