"""The demo's homelab.yaml: a small, true example of what a user writes, with comments."""

from __future__ import annotations

import os
from pathlib import Path

import pyrage

from homelab_pipelines.backup.stores.directory import DirectoryStore
from homelab_pipelines.demo.server import HOST, PASSWORD_FILE, PORT_FILE, SUPERUSER, demo_port, write_secret
from homelab_pipelines.inventory.databases import AtHost
from homelab_pipelines.inventory.loader import InventoryInvalid, load

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
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text)
    aside.replace(path)


def is_demo(path: Path, home: Path) -> bool:
    """Whether an inventory uses the demo's server, so that it has to be started. False for one with mistakes in it."""
    if not (home / PORT_FILE).exists():
        return False
    try:
        homelab = load(path)
    except InventoryInvalid:
        return False
    places = [server.at for server in homelab.databases.values()]
    port = demo_port(home)
    return any(isinstance(at, AtHost) and (homelab.address_of(at.host), at.port) == (HOST, port) for at in places)


def _written(path: Path, inventory: Path) -> str:
    """A path as a YAML string, relative to the inventory's folder where it is below it, so that both can be moved."""
    folder = inventory.absolute().parent
    text = str(path.relative_to(folder) if path.is_relative_to(folder) else path)
    # In double quotes no character of it means anything else (https://yaml.org/spec/1.2.2/#731-double-quoted-style).
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
