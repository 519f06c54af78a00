"""`database_backup/<name>` and `database_globals/<server>`: one backup on every target, restored and found equal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dagster as dg

from homelab_pipelines.assets.common import GROUP, asset_kinds, inspected_once, op_name, pool
from homelab_pipelines.assets.errors import failing_clearly
from homelab_pipelines.assets.markdown import table, table_if_any
from homelab_pipelines.assets.progress import Progress, StepProgress
from homelab_pipelines.backup.capture import CaptureResult, capture_database, capture_globals
from homelab_pipelines.backup.configured import ConfiguredBackups
from homelab_pipelines.backup.errors import BackupDamaged, BackupError
from homelab_pipelines.backup.layout import Source
from homelab_pipelines.backup.manifest import BackupRecord, Proof
from homelab_pipelines.backup.stores.base import BackupStore
from homelab_pipelines.backup.verify import verify_backup
from homelab_pipelines.inventory.backups import S3Target
from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.units import format_duration
from homelab_pipelines.resources.backups import BackupsResource

RESTORABLE = "restorable"
RESTORE_TIME = "restored_within_promise"
EVERY_TARGET = "on_every_target"
EVERY_DATABASE = "every_database_is_backed_up"
_LOAD_ANEW = (
    "homelab discover, which a running homelab up follows at once (by itself within ten minutes);"
    " where Dagster was started in another way, reload the code location"
)


def backup_key(instance: str, source: Source) -> dg.AssetKey:
    """The asset key of a source's backup."""
    return dg.AssetKey(
        ["database_globals", source.server] if source.database is None else ["database_backup", instance]
    )


def backup_assets(
    instance: str, source: Source, homelab: Homelab, retries: dg.RetryPolicy, covered: Sequence[str]
) -> tuple[dg.AssetsDefinition, dg.AssetChecksDefinition]:
    """The backup of one source, and the check that restores it.

    `covered`: the databases of its server that have assets in the same definitions.
    """
    key = backup_key(instance, source)
    promise = homelab.backups.promise
    is_globals = source.database is None
    stores = {"s3" if isinstance(target, S3Target) else "file" for target in homelab.backups.targets.values()}
    checks = [
        dg.AssetCheckSpec(EVERY_TARGET, asset=key, description="Every target of the inventory holds this backup.")
    ]
    if is_globals:
        what = f"Roles, memberships and tablespaces of server `{source.server}`."
        checks.append(
            dg.AssetCheckSpec(
                EVERY_DATABASE,
                asset=key,
                description="Every database that the server has and the inventory chooses has an asset.",
            )
        )
    else:
        what = (
            f"Database `{source.database}` of server `{source.server}`, dumped once to every target"
            f" ({', '.join(homelab.backups.targets)}); its check `{RESTORABLE}` restores it and compares."
        )

    @dg.multi_asset(
        name=op_name(*key.path),
        specs=[
            dg.AssetSpec(
                key,
                deps=[] if is_globals else [dg.AssetKey(["database", instance])],
                group_name=GROUP,
                kinds=asset_kinds("postgres", *sorted(stores)),
                owners=[homelab.owner] if homelab.owner else None,
                description=what,
                freshness_policy=dg.FreshnessPolicy.time_window(fail_window=promise.age),
                metadata={"source": source.id},
            )
        ],
        check_specs=checks,
        retry_policy=retries,
        pool=pool(source.server),
    )
    @inspected_once
    def database_backup(
        context: dg.AssetExecutionContext, backups: BackupsResource, progress: dg.ResourceParam[Progress]
    ) -> Iterator[Any]:
        with failing_clearly():
            configured = backups.open()
            report = StepProgress(context, progress)
            connection, options = configured.connection(source.server), configured.capture_options(source.server)
            targets, unusable = configured.targets()
            if source.database is None:
                result = capture_globals(connection, targets, options, report)
            else:
                result = capture_database(connection, source.database, targets, options, report)
        reasons = {name: f"{error.what}: {error.why}" for name, error in unusable.items()}
        result = replace(result, missed={**result.missed, **reasons})
        yield dg.MaterializeResult(asset_key=key, metadata=_metadata(result))
        yield _every_target(key, result)
        if is_globals:
            with failing_clearly():
                yield _every_database(key, configured, source.server, covered)

    @dg.multi_asset_check(
        name=op_name(f"{key.path[0]}_restorable", key.path[1]),
        specs=[
            dg.AssetCheckSpec(
                RESTORABLE,
                asset=key,
                blocking=True,
                description="The newest backup was restored and found equal to its source; every copy was re-read.",
            ),
            dg.AssetCheckSpec(
                RESTORE_TIME,
                asset=key,
                description=f"The restore took at most {format_duration(promise.restore_within)}.",
            ),
        ],
        retry_policy=retries,
    )
    @inspected_once
    def restorable(
        context: dg.AssetCheckExecutionContext, backups: BackupsResource, progress: dg.ResourceParam[Progress]
    ) -> Iterator[dg.AssetCheckResult]:
        with failing_clearly():
            configured = backups.open()
            copies, unread = _copies(configured, source, _latest_id(context.instance, key))
            for name, error in unread.items():
                context.log.warning(f"the copy on {name} could not be read: {error}")
            proofs = (
                verify_backup(
                    copies,
                    configured.identities(),
                    configured.scratch_choice(source.server),
                    progress=StepProgress(context, progress),
                )
                if copies
                else []
            )
        yield from _verdict(key, proofs, unread, promise.restore_within)

    return database_backup, restorable


def _latest_id(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The id of the backup that was made last; by its time alone another may seem newer, after a clock went back."""
    event = instance.get_latest_materialization_event(key)
    made = event.asset_materialization if event else None
    value = made.metadata.get("backup_id") if made else None
    return str(value.value) if value is not None else None


def _copies(
    configured: ConfiguredBackups, source: Source, made_last: str | None
) -> tuple[dict[str, tuple[BackupStore, BackupRecord]], dict[str, BackupError]]:
    """The copies of the backup that was made last, or, where it is gone, of the newest one."""
    if made_last is not None:
        found = configured.copies(source, made_last)
        if found[0]:
            return found
    return configured.copies(source)


def _metadata(result: CaptureResult) -> Mapping[str, Any]:
    manifest = result.manifest
    content = sum(stored.content_bytes for stored in manifest.objects)
    seconds = manifest.duration.total_seconds()
    return {
        "backup_id": manifest.id,
        "bytes": manifest.bytes,
        "content_bytes": content,
        "ratio": round(content / manifest.bytes, 3),
        "duration_seconds": round(seconds, 3),
        "throughput_bytes_per_second": round(content / seconds) if seconds else 0,
        "rows": manifest.evidence.rows,
        "tables": len(manifest.evidence.tables),
        "server_version": manifest.server_version,
        "schema_fingerprint": manifest.evidence.schema_fingerprint,
        "taken_at": dg.MetadataValue.timestamp(manifest.taken_at),
        "copies": table(
            ["target", "where", "note"],
            [
                *(
                    (name, where, "filled from another copy" if name in result.filled else "")
                    for name, where in result.written.items()
                ),
                *((name, "**missing**", reason) for name, reason in result.missed.items()),
            ],
        ),
        "evidence": table(
            ["table", "rows", "content hash"],
            [
                (each.name, "derived" if each.rows is None else each.rows, each.content_hash or "not taken")
                for each in manifest.evidence.tables
            ],
        ),
        **table_if_any("not_carried", ["what", "why"], [(each.what, each.why) for each in manifest.not_carried]),
    }


def _every_target(key: dg.AssetKey, result: CaptureResult) -> dg.AssetCheckResult:
    missed = "; ".join(f"{name}: {reason}" for name, reason in result.missed.items())
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=EVERY_TARGET,
        passed=not result.missed,
        description=f"missing on {missed}. Next: mend the target, then homelab backup" if missed else None,
        metadata={"copies": len(result.written), "missing": len(result.missed)},
    )


def _every_database(
    key: dg.AssetKey, configured: ConfiguredBackups, server: str, covered: Sequence[str]
) -> dg.AssetCheckResult:
    """Compare what the server has now with the databases that have assets, and the patterns with what they match."""
    choice = configured.choice(server)
    missing, gone = sorted(set(choice.chosen) - set(covered)), sorted(set(covered) - set(choice.chosen))
    lines = [f"no backup of {name!r} yet" for name in missing] + [f"{name!r} is gone from the server" for name in gone]
    said = [f"{'; '.join(lines)}. Next: {_LOAD_ANEW}"] if lines else []
    if choice.fault is not None:
        said.append(f"{choice.fault.why}. Next: {choice.fault.next_step}")
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=EVERY_DATABASE,
        passed=not said,
        description="\n".join(said) or None,
        metadata={
            "backed_up": len(choice.chosen) - len(missing),
            **table_if_any(
                "left_out",
                ["database", "why"],
                [(name, "not chosen by include and exclude") for name in choice.present if name not in choice.chosen],
            ),
        },
    )


def _verdict(
    key: dg.AssetKey, proofs: list[Proof], unread: Mapping[str, BackupError], within: timedelta
) -> Iterator[dg.AssetCheckResult]:
    """Every copy that can be read must be equal; one that cannot is not proven: `on_every_target` tells."""
    lines = [
        f"{proof.id} on {proof.target} is {proof.result}: {line}"
        for proof in proofs
        if proof.result != "equal"
        for line in proof.differences or ["no more is known"]
    ]
    lines += [f"{error.what}: {error.why}" for error in unread.values() if isinstance(error, BackupDamaged)]
    equal = bool(proofs) and not lines
    restored = next(
        (proof for proof in proofs if proof.method == "restored" and proof.restore_seconds is not None), None
    )
    seconds = restored.restore_seconds if restored and restored.restore_seconds is not None else None
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name=RESTORABLE,
        passed=equal,
        description=(
            f"restored and equal: {proofs[0].id} in {seconds or 0:.1f} s{_not_read(unread)}"
            if equal
            else _why_not(lines)
        ),
        metadata={
            "backup_id": proofs[0].id if proofs else "none",
            **_seconds("restore_seconds", seconds),
            **_seconds("compare_seconds", restored.compare_seconds if restored else None),
            "scratch": (restored.scratch if restored else None) or "none",
            "copies": table(
                ["target", "result", "how"],
                [
                    *((proof.target, proof.result, proof.method) for proof in proofs),
                    *((name, "not read", error.why) for name, error in unread.items()),
                ],
            ),
            **table_if_any("differences", ["what differs"], [(line,) for line in lines]),
            **table_if_any("notes", ["note"], [(note,) for note in (restored.notes if restored else [])]),
        },
    )
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name=RESTORE_TIME,
        passed=seconds is not None and seconds <= within.total_seconds(),
        severity=dg.AssetCheckSeverity.WARN,
        description=(
            f"{seconds:.1f} s of {format_duration(within)} promised" if seconds is not None else "nothing was restored"
        ),
        metadata=_seconds("restore_seconds", seconds),
    )


def _seconds(name: str, value: float | None) -> dict[str, float]:
    """A plot shows a gap, not a zero, where nothing was measured."""
    return {} if value is None else {name: float(value)}


def _not_read(unread: Mapping[str, BackupError]) -> str:
    return "".join(f"; the copy on {name} could not be read: {error.why}" for name, error in unread.items())


def _why_not(lines: list[str]) -> str:
    if not lines:
        return "no target holds a backup. Next: homelab backup"
    more = f"; and {len(lines) - 5} more" if len(lines) > 5 else ""
    return f"{'; '.join(lines[:5])}{more}. Next: homelab backups, then homelab backup for a new one"
