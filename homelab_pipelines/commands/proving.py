"""`homelab verify` and `homelab restore`: no Dagster, and for a restore no inventory either."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from homelab_pipelines.backup.configured import ConfiguredBackups, inventory_path
from homelab_pipelines.backup.connection import Connection
from homelab_pipelines.backup.errors import (
    BackupError,
    KeyMissing,
    ObjectMissing,
    RestoreFailed,
    SourceRefused,
    SourceUnavailable,
)
from homelab_pipelines.backup.layout import Source
from homelab_pipelines.backup.manifest import BackupRecord, Proof
from homelab_pipelines.backup.readable import readable_bytes
from homelab_pipelines.backup.records import list_store, read_backup
from homelab_pipelines.backup.restore import restore_database
from homelab_pipelines.backup.restored_copy import RestoreOptions
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.unpack import parse_identities
from homelab_pipelines.backup.verify import verify_backup
from homelab_pipelines.commands.dsn import connection_of, read_dsn
from homelab_pipelines.commands.listing import open_stores
from homelab_pipelines.commands.output import print_json, progress_bar, say, show

_INTO_NEXT = "is the server up, and are host, port, user and password of --into (or PGPASSWORD) right?"
# NAMEDATALEN - 1 of every PostgreSQL that was not built otherwise; the server cuts longer names without an error.
_LONGEST_NAME_BYTES = 63


def verify_backups(name: str | None, backup_id: str | None, as_json: bool) -> int:
    """Restore and compare the newest backup of one source, or of each; 0 only when every copy is proven."""
    configured = ConfiguredBackups.from_environment()
    sources = configured.sources() if name is None else [_known(configured, name)]
    proofs: list[Proof] = []
    failed = False
    for source in sources:
        try:
            copies, unread = configured.copies(source, backup_id)
            for error in unread.values():
                say(str(error))
                failed = True
            if not copies:
                if backup_id:
                    say(f"{source.id}: no target holds backup {backup_id}\n  next: homelab backups, for all there are")
                else:
                    say(f"{source.id}: no target holds a backup\n  next: homelab backup")
                failed = True
                continue
            with progress_bar(source.id) as progress:
                proofs += verify_backup(
                    copies, configured.identities(), configured.scratch_choice(source.server), progress=progress
                )
        except BackupError as error:
            say(str(error))
            failed = True
    if as_json:
        print_json([proof.model_dump(mode="json") for proof in proofs])
    else:
        _show_proofs(proofs)
    return 1 if failed or any(proof.result != "equal" for proof in proofs) else 0


def restore_backup(
    name: str,
    backup_id: str | None,
    addresses: tuple[str, ...],
    endpoint: str | None,
    into: str | None,
    new_database: str | None,
    identity: str | None,
    options: RestoreOptions,
    as_json: bool,
) -> int:
    """Restore a backup; 0 only when the restored copy was found equal (or was not to be compared)."""
    # Whatever is wrong with where to is said before hours of looking and unpacking.
    parts = read_dsn(into) if into is not None else {}
    database = checked_database_name(str(parts["dbname"]), "--into") if parts else ""
    if new_database is not None:
        database = checked_database_name(new_database, "--new-database")
    stores, unopened = open_stores(addresses, endpoint)
    faults = [f"{error.what}: {error.why}" for error in unopened]
    known = None if addresses else ConfiguredBackups.from_environment().find_source(name)
    store, record = _find(known.id if known else name, backup_id, stores, faults)
    connection = connection_of(parts) if parts else _from_inventory(record)
    identities = _identities(record, identity)
    try:
        with progress_bar(f"restoring {record.manifest.source}") as progress:
            result = restore_database(connection, database, store, record, identities, options, progress)
    except (SourceRefused, SourceUnavailable) as error:
        if parts and "homelab.yaml" in error.next_step:  # the address came from the command line
            raise type(error)(error.what, error.why, _INTO_NEXT) from error
        raise
    if as_json:
        print_json(
            {
                "source": record.manifest.source,
                "id": record.manifest.id,
                "database": result.database,
                "restore_seconds": round(result.seconds, 3),
                "equal": not result.differences if options.check else None,
                "differences": result.differences,
                "notes": result.notes,
                "replaced": result.replaced,
            }
        )
    else:
        checked = "found equal to its source" if options.check and not result.differences else "restored"
        say(
            f"{record.manifest.source} of {record.manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC"
            f" ({readable_bytes(record.manifest.bytes)}) is now database {result.database!r}:"
            f" {checked}, in {result.seconds:.1f} s"
        )
        for note in result.notes:
            say(f"  note: {note}")
        if result.replaced:
            say(f"  the former database is {result.replaced!r}; once you are sure: {_drop_command(result.replaced)}")
    for line in result.differences:
        say(f"  differs: {line}")
    return 1 if result.differences else 0


def _known(configured: ConfiguredBackups, name: str) -> Source:
    source = configured.find_source(name)
    if source is None:
        known = ", ".join([*configured.instances(), *(f"{server}/@globals" for server in configured.homelab.databases)])
        raise ObjectMissing(f"finding {name!r}", f"the inventory has {known or 'no database'}", "homelab discover")
    return source


def _find(
    name: str, backup_id: str | None, stores: list[BackupStore], faults: list[str]
) -> tuple[BackupStore, BackupRecord]:
    """The newest sound backup of what `name` means, or the one asked for, on a store whose copy is sound.

    Sound is what is whole and whose latest proof, if there is one, did not fail. Says what stood in the way of a newer
    one, or of looking for one. One asked for by its id is taken as it is: where its proof failed, with a warning.
    """
    found: list[tuple[BackupStore, BackupRecord]] = []
    for store in stores:
        try:
            source_id = _source_in(store, name)
            if source_id is None:
                continue
            if backup_id is not None:
                found.append((store, read_backup(store, source_id, backup_id)))
                continue
            listing = list_store(store, source_id)
        except BackupError as error:
            faults.append(f"{error.what}: {error.why}")
            continue
        found += [(store, record) for record in listing.backups]
        faults += [
            f"{store.location(leftover.folder)}: {leftover.reason}"
            for leftover in listing.leftovers
            if leftover.unreadable is not None
        ]
    sound = [pair for pair in found if pair[1].status != "failed"]
    if backup_id is None:
        faults += [f"{record.location}: {_why_failed(record)}" for _, record in found if record.status == "failed"]
    elif not sound:
        # The restore itself says what is wrong with a damaged one.
        sound = [pair for pair in found if not pair[1].damage] or found
        for _, record in sound:
            if not record.damage:
                say(f"warning: {record.location}: {_why_failed(record)}")
    if sound:
        for fault in faults:
            say(f"note: {fault}")
        return max(sound, key=lambda pair: pair[1].taken_at)
    places = ", ".join(store.name for store in stores) or "no store"
    wanted = f"backup {backup_id} of {name!r}" if backup_id else f"a whole backup of {name!r}"
    if faults:
        hint = "homelab backups; one whose proof failed is restored when it is named: --id ID"
        next_step = hint if any(record.status == "failed" for _, record in found) else "homelab backups"
        raise RestoreFailed(f"finding {wanted}", "; ".join(faults), next_step)
    raise ObjectMissing(f"finding {wanted}", f"there is none in {places}", "homelab backups")


def _why_failed(record: BackupRecord) -> str:
    """What is wrong with a backup that counts as failed: damage that its listing shows, else its latest proof."""
    proof = record.latest_proof
    if record.damage or proof is None:
        return str(record.damage)
    details = "; ".join(proof.differences[:3])
    return f"its latest proof, of {proof.checked_at:%Y-%m-%d %H:%M} UTC, failed ({proof.result}): {details}"


def _source_in(store: BackupStore, name: str) -> str | None:
    """The source id that a person means by `name` in a store: itself, or the database's name where that is unique."""
    ids = sorted({"/".join(listed.key.split("/")[:2]) for listed in store.scan() if listed.key.count("/") == 3})
    if name in ids:
        return name
    matching = [each for each in ids if name in (Source.parse(each).database, each.partition("/")[2])]
    if len(matching) > 1:
        raise RestoreFailed(f"finding {name!r} in {store.name}", f"it may be {' or '.join(matching)}", "say which")
    return matching[0] if matching else None


def checked_database_name(name: str, option: str) -> str:
    """`name`, where it can be the name of a database. Raises RestoreFailed, naming the option it came from."""
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise RestoreFailed(f"reading {option}", "the database's name is not UTF-8", "choose another name") from None
    if 1 <= length <= _LONGEST_NAME_BYTES:
        return name
    why = f"the database's name has {length} bytes; PostgreSQL takes 1 to {_LONGEST_NAME_BYTES}"
    raise RestoreFailed(f"reading {option}", why, "choose another name")


def _drop_command(database: str) -> str:
    """What a person types to drop a database of any name; -- where it would be taken for an option."""
    return f"dropdb {'-- ' if database.startswith('-') else ''}{shlex.quote(database)}"


def _from_inventory(record: BackupRecord) -> Connection:
    """The server that the backup came from."""
    configured = ConfiguredBackups.from_environment()
    server = Source.parse(record.manifest.source).server
    if server not in configured.homelab.databases:
        raise RestoreFailed(
            f"restoring {record.manifest.source}", f"the inventory has no server {server!r}", "name one: --into DSN"
        )
    connection: Connection = configured.connection(server)
    return connection


def _identities(record: BackupRecord, identity: str | None) -> list[Any]:
    if not record.manifest.recipients:
        return []
    if identity is None:
        if not inventory_path().exists():
            raise KeyMissing(
                f"opening {record.manifest.source} {record.manifest.id}",
                f"it is encrypted, and there is no {inventory_path().name} here that names an identity",
                "give the file of its age identity: --identity FILE",
            )
        return ConfiguredBackups.from_environment().identities()
    try:
        return parse_identities(Path(identity).read_text())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not text"
        raise KeyMissing(f"reading {identity}", why, "give the file that age-keygen wrote: --identity FILE") from None


def _show_proofs(proofs: list[Proof]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for column in ("source", "id", "target", "result", "restore", "what differs, notes"):
        table.add_column(column, overflow="fold")
    for proof in proofs:
        result = "[green]restored and equal[/]" if proof.result == "equal" else f"[red]{proof.result}[/]"
        seconds = f"{proof.restore_seconds:.1f} s" if proof.restore_seconds is not None else "-"
        details = escape("\n".join([*proof.differences, *proof.notes]))
        table.add_row(proof.source, proof.id, proof.target, result, seconds, details)
    if proofs:
        show(table)
