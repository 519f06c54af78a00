"""The demo's homelab.yaml: a small, true example of what a user writes, with comments."""

from __future__ import annotations

import os
from pathlib import Path

import pyrage

from homelab_pipelines.backup.errors import BackupError
from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.backup.stores.keys import MARKER
from homelab_pipelines.demo.server import (
    HOST,
    PASSWORD_FILE,
    SUPERUSER,
    demo_port,
    keep_port,
    superuser_password,
    write_secret,
)
from homelab_pipelines.inventory.databases import AtHost, PostgresServer
from homelab_pipelines.inventory.loader import InventoryInvalid, load
from homelab_pipelines.inventory.model import Homelab

IDENTITY_FILE = Path("demo/secrets/age-identity")
NAS = Path("demo/nas")
TEMPLATE = """\
# The demo homelab. `homelab check` says what is wrong in this file, with line and column.
# Your own homelab looks the same: change the host, the database server and the targets, and remove the demo.
homelab: demo
timezone: UTC
owner: team:home

hosts:
  main: {{address: {host}}}

databases:
  main:                                # a server; each of its databases becomes an asset of its own
    kind: postgres
    at: {{host: main, port: {port}}}
    user: {user}
    password: {{file: {password}}}
    include: [immich, nextcloud]       # patterns; "*" is every database but templates

backups:
  schedule: "0 2 * * *"                # every night at two, in the time zone above
  promise: {{age: 26h, restore_within: 30m}}
  compression: {{zstd: 3}}
  encrypt_to: [{recipient}]
  identity: {{file: {identity}}}       # opens the backups: keep a copy of it elsewhere
  targets:
    nas:                               # a folder that stands for a mounted NAS
      directory: {nas}
      require_mount: true              # refuses to write unless the mount's marker file is there
      keep: {{daily: 7, weekly: 4, monthly: 12}}
"""


class DemoIncomplete(BackupError):
    """The demo's inventory names something that is gone and cannot be made again."""


def write_demo_inventory(path: Path, home: Path) -> None:
    """Write the demo's inventory to `path`, unless it is there, and make what it refers to below `home`.

    That is the superuser's password, an age identity, and the folder that plays the NAS with its marker file. The file
    appears whole or not at all. Existing secrets are kept. Raises OSError.
    """
    home = home.absolute()
    identity = pyrage.x25519.Identity.from_str(
        write_secret(home / IDENTITY_FILE, str(pyrage.x25519.Identity.generate()))
    )
    DirectoryStore(home / NAS, "nas").mark()
    if path.exists():
        return
    text = TEMPLATE.format(
        host=HOST,
        port=demo_port(home),
        user=SUPERUSER,
        password=_written(home / PASSWORD_FILE, path),
        recipient=identity.to_public(),
        identity=_written(home / IDENTITY_FILE, path),
        nas=_written(home / NAS, path),
    )
    _replace(path, text)


def demo_home(path: Path) -> Path | None:
    """The folder of state whose demo server an inventory uses, so that it has to be started there; else None.

    It is told by the file of the server's password, which is below that folder whether or not it is still there. None
    for an inventory with mistakes in it.
    """
    try:
        homelab = load(path)
    except InventoryInvalid:
        return None
    entry = _demo_entry(homelab)
    file = entry.password.path(path.absolute().parent) if entry and entry.password else None
    return file.parents[len(PASSWORD_FILE.parts) - 1] if file else None


def complete_demo(path: Path, home: Path) -> list[str]:
    """Make again what the demo's inventory at `path` names below `home` and is gone; say what that was.

    The port is the inventory's. A new age identity takes the place of the lost one in `encrypt_to`: that one key of the
    file is changed. Raises DemoIncomplete where it cannot be known which key the lost identity belongs to.
    """
    homelab = load(path)
    entry = _demo_entry(homelab)
    made = []
    if entry is not None and isinstance(entry.at, AtHost):
        keep_port(home, entry.at.port)
    if not (home / PASSWORD_FILE).exists():
        superuser_password(home)
        made.append("the superuser's password")
    identity = homelab.backups.identity
    is_ours = identity is not None and identity.path(path.absolute().parent) == home / IDENTITY_FILE
    if is_ours and not (home / IDENTITY_FILE).exists():
        _renew_identity(path, home, homelab.backups.encrypt_to)
        made.append(f"the age identity (encrypt_to in {path.name} names the new one; older backups stay closed)")
    if not (home / NAS / MARKER).exists():
        DirectoryStore(home / NAS, "nas").mark()
        made.append("the folder that plays the NAS")
    return made


def _demo_entry(homelab: Homelab) -> PostgresServer | None:
    """The entry of the demo's server: on 127.0.0.1, with the demo's own file as its password."""
    for server in homelab.databases.values():
        file = Path(server.password.file) if server.password and server.password.file else None
        if file is None or not isinstance(server.at, AtHost) or homelab.address_of(server.at.host) != HOST:
            continue
        if file.parts[-len(PASSWORD_FILE.parts) :] == PASSWORD_FILE.parts:
            return server
    return None


def _renew_identity(path: Path, home: Path, recipients: tuple[str, ...]) -> None:
    if len(recipients) != 1:
        raise DemoIncomplete(
            f"starting the demo of {path}",
            f"its age identity {home / IDENTITY_FILE} is gone, and encrypt_to has {len(recipients)} keys",
            f"put the identity back, or move {path} away: homelab up then writes a new demo",
        )
    new = pyrage.x25519.Identity.generate()
    text = path.read_text(encoding="utf-8")
    # The inventory first: killed in between, the next start finds no identity again and makes another.
    _replace(path, text.replace(recipients[0], str(new.to_public())))
    write_secret(home / IDENTITY_FILE, str(new))


def _replace(path: Path, text: str) -> None:
    """Write a file whole; bytes of a path that are not UTF-8 go out as they came in."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8", errors="surrogateescape")
    aside.replace(path)


def _written(path: Path, inventory: Path) -> str:
    """A path as a YAML string, relative to the inventory's folder where it is below it, so that both can be moved."""
    folder = inventory.absolute().parent
    text = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    # In double quotes no character of it means anything else (https://yaml.org/spec/1.2.2/#731-double-quoted-style).
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
