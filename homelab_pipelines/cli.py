"""The `homelab` command: thin, over the same engines and assets. Imports lazily: only `backup` pays for Dagster."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_FROM = click.option("--from", "stores", multiple=True, metavar="STORE", help="A folder or s3://bucket/prefix.")
_ENDPOINT = click.option("--endpoint", metavar="URL", help="The S3 server's address, with --from s3://…")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="homelab-pipelines")
@click.option("--inventory", type=click.Path(path_type=Path), help="Default: $HOMELAB_INVENTORY, else ./homelab.yaml.")
@click.option(
    "--home", type=click.Path(path_type=Path), help="Folder of state. Default: $HOMELAB_HOME, else .homelab/."
)
def homelab(inventory: Path | None, home: Path | None) -> None:
    """Backups that were restored, and the rest of a homelab's way from Compose files to GitOps."""
    import os

    from homelab_pipelines.backup.configured import HOME_VARIABLE, INVENTORY_VARIABLE

    if inventory is not None:
        os.environ[INVENTORY_VARIABLE] = str(inventory.absolute())
    if home is not None:
        os.environ[HOME_VARIABLE] = str(home.absolute())


@homelab.command()
@click.option("--force", is_flag=True, help="Where there is one, keep it as homelab.yaml.old (.old.2 …).")
@_JSON
def init(force: bool, as_json: bool) -> int:
    """Write a commented homelab.yaml to start from."""
    from homelab_pipelines.backup.configured import inventory_path
    from homelab_pipelines.commands.template_file import write_template

    return write_template(inventory_path(), force, as_json)


@homelab.command()
@click.option("--connect", is_flag=True, help="Also ask every server and target, and look for fitting programs.")
@click.option("--mend", is_flag=True, help="Print a diff of what is certain to mend in Compose files, for patch -p0.")
@_JSON
def check(connect: bool, mend: bool, as_json: bool) -> int:
    """Say everything that is wrong in homelab.yaml and in the Compose files of its stacks, with line and column."""
    from homelab_pipelines.backup.configured import inventory_path
    from homelab_pipelines.commands.checking import check_inventory, print_mends

    path = inventory_path()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    if mend and (connect or as_json):
        raise click.UsageError("--mend prints a diff, and goes without --connect and --json")
    return print_mends(shown) if mend else check_inventory(shown, connect, as_json)


@homelab.command()
@click.argument("names", nargs=-1)
@_JSON
def stacks(names: tuple[str, ...], as_json: bool) -> int:
    """List the Compose stacks: host, services, where they keep data, what stands in a cluster's way, warnings."""
    from homelab_pipelines.commands.stacks import list_stacks

    return list_stacks(names, as_json)


@homelab.command()
def schema() -> int:
    """Print the JSON Schema of homelab.yaml, for editors."""
    from homelab_pipelines.commands.output import print_json
    from homelab_pipelines.inventory.schema import json_schema

    print_json(json_schema())
    return 0


@homelab.command()
@_JSON
def discover(as_json: bool) -> int:
    """Ask the servers for their databases, so that each becomes an asset."""
    from homelab_pipelines.commands.discovering import discover_databases

    return discover_databases(as_json)


@homelab.command("mark-target")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also where nothing is mounted: require_mount then guards nothing.")
@_JSON
def mark_target(name: str, force: bool, as_json: bool) -> int:
    """Put the marker file on a mounted target, which require_mount looks for. Once, while it is mounted."""
    from homelab_pipelines.commands.marking import mark_target

    return mark_target(name, force, as_json)


@homelab.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=3000,
    show_default=True,
    envvar="PORT",
    help="The Dagster UI's port on 127.0.0.1.",
)
@click.option("--run/--no-run", default=True, help="Run the nightly job when no fresh proven backup is there.")
@click.option("--stay/--no-stay", default=True, help="Stay until Ctrl-C, or end at once after the first run.")
@click.option("--docker", is_flag=True, help="As containers, with Docker Compose; they stay when the command ends.")
@_JSON
def up(port: int, run: bool, stay: bool, docker: bool, as_json: bool) -> int:
    """Start Dagster (and, without a homelab.yaml, the demo homelab), run the first backup, show the proof."""
    from homelab_pipelines.backup.configured import inventory_path, state_home

    if docker:
        if as_json:
            raise click.UsageError("--json goes without --docker, whose result is the containers")
        from homelab_pipelines.commands.up_docker import bring_up_docker
        from homelab_pipelines.docker_deployment import DockerDeployment

        return bring_up_docker(DockerDeployment(inventory_path(), state_home(), port), run)
    from homelab_pipelines.commands.up import bring_up
    from homelab_pipelines.local_deployment import Deployment

    if as_json and stay:
        raise click.UsageError("--json goes with --no-stay")
    return bring_up(Deployment(inventory_path(), state_home(), port), run, stay, as_json)


@homelab.command()
@click.argument("names", nargs=-1)
@_JSON
def backup(names: tuple[str, ...], as_json: bool) -> int:
    """Back up and prove the named databases, or all, as a Dagster run."""
    from homelab_pipelines.commands.runs import back_up

    return back_up(names, as_json)


@homelab.command()
@click.argument("name", required=False)
@_FROM
@_ENDPOINT
@_JSON
def backups(name: str | None, stores: tuple[str, ...], endpoint: str | None, as_json: bool) -> int:
    """List backups: when, how large, where, and when they were last proven."""
    from homelab_pipelines.commands.listing import list_backups

    _refuse_endpoint_alone(stores, endpoint)
    return list_backups(name, stores, endpoint, as_json)


@homelab.command()
@click.argument("name", required=False)
@click.option("--id", "backup_id", metavar="ID", help="Not the newest, but this one.")
@_JSON
def verify(name: str | None, backup_id: str | None, as_json: bool) -> int:
    """Restore the newest backup of NAME, or of every database, into a scratch server and compare."""
    from homelab_pipelines.commands.proving import verify_backups

    if backup_id and not name:
        raise click.UsageError("--id needs the NAME of the database")
    return verify_backups(name, backup_id, as_json)


@homelab.command()
@click.argument("name")
@click.option("--id", "backup_id", metavar="ID", help="Not the newest, but this one.")
@_FROM
@_ENDPOINT
@click.option("--into", metavar="DSN", help="postgresql://user@host/new_database; the password from PGPASSWORD.")
@click.option("--new-database", metavar="NAME", help="On the server that the inventory names for this backup.")
@click.option("--replace", is_flag=True, help="Over an existing database, which is renamed aside.")
@click.option("--identity", type=click.Path(), help="File of the age identity. Default: the inventory's.")
@click.option("--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Parallel connections.")
@click.option("--roles/--no-roles", default=True, help="Create roles that the server lacks.")
@click.option("--check/--no-check", default=True, help="Compare the restored copy with the backup's evidence.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Folder to unpack into. Default: the temporary one.")
@_JSON
def restore(
    name: str,
    backup_id: str | None,
    stores: tuple[str, ...],
    endpoint: str | None,
    into: str | None,
    new_database: str | None,
    replace: bool,
    identity: str | None,
    jobs: int,
    roles: bool,
    check: bool,
    scratch: Path | None,
    as_json: bool,
) -> int:
    """Restore a backup of NAME. With --from, --into and --identity no homelab.yaml is needed."""
    from homelab_pipelines.backup.restored_copy import RestoreOptions
    from homelab_pipelines.commands.proving import restore_backup

    _refuse_endpoint_alone(stores, endpoint)
    if (into is None) == (new_database is None):
        raise click.UsageError("say where to: --into DSN or --new-database NAME")
    options = RestoreOptions(replace=replace, roles=roles, jobs=jobs, check=check, folder=scratch)
    return restore_backup(name, backup_id, stores, endpoint, into, new_database, identity, options, as_json)


@homelab.command()
@click.option("--dry-run", is_flag=True, help="Explain every keep and drop, delete nothing.")
@_JSON
def prune(dry_run: bool, as_json: bool) -> int:
    """Delete what the retention policy lets go and proof allows; sweep what killed runs left."""
    from homelab_pipelines.commands.listing import prune_targets

    return prune_targets(dry_run, as_json)


@homelab.command()
@click.argument("stack")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder to write to."
)
@click.option("--claim-size", default="10Gi", show_default=True, help="Size of each claim for data.")
@click.option("--storage-class", metavar="CLASS", help="Class of claims. Default: the cluster's own.")
@click.option("--shared-class", metavar="CLASS", help="Class of claims that several pods use at once, such as NFS.")
@click.option("--time-zone", default="Etc/UTC", show_default=True, help="TZ in place of a mounted /etc/localtime.")
@_JSON
def convert(
    stack: str,
    output: Path,
    claim_size: str,
    storage_class: str | None,
    shared_class: str | None,
    time_zone: str,
    as_json: bool,
) -> int:
    """Convert a Compose project to Kubernetes manifests, with an account of every value of it.

    STACK is a Compose file, a folder with one, or a stack of homelab.yaml. DIR gets a Kustomize base with overlays dev
    and prod, what Kompose made, REPORT.md and report.json; a former conversion in it is replaced.
    """
    from homelab_pipelines.commands.converting import convert_stack
    from homelab_pipelines.migration.draft import Policy

    policy = Policy(claim_size, storage_class, shared_class=shared_class, time_zone=time_zone)
    return convert_stack(stack, output, policy, as_json)


@homelab.command("move-history")
@click.option("--into", metavar="DSN", required=True, help="postgresql://user@host/dagster; password from PGPASSWORD.")
@_JSON
def move_history(into: str, as_json: bool) -> int:
    """Copy Dagster's run history, which `homelab up` keeps in SQLite, into an empty PostgreSQL database."""
    from homelab_pipelines.backup.configured import inventory_path, state_home
    from homelab_pipelines.commands.moving import move_run_history
    from homelab_pipelines.local_deployment import Deployment

    return move_run_history(Deployment(inventory_path(), state_home()), into, as_json)


def _refuse_endpoint_alone(stores: tuple[str, ...], endpoint: str | None) -> None:
    if endpoint and not stores:
        raise click.UsageError("--endpoint is of no use without --from s3://…; a target's stands in the inventory")


def main() -> None:
    """Run the command: 0 when all asked for was done, 1 when not, 2 for a wrong call or inventory, 130 for Ctrl-C."""
    warnings.showwarning = _warn
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # under LC_ALL=C a name or a table's line is no reason to end
    run: Callable[..., Any] = homelab.main
    try:
        status = run(standalone_mode=False)
    except click.exceptions.Exit as error:
        status = error.exit_code
    except click.ClickException as error:
        error.show()
        status = 2
        _print_error(error.format_message())
    except (click.Abort, KeyboardInterrupt):
        status = 130
        _print_error("it was ended before it was done")
    except Exception as error:  # noqa: BLE001 (what is not expected is raised again)
        status = _explain(error)
    sys.exit(status if isinstance(status, int) else 0)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a sentence, without the line of code that it came from."""
    click.echo(f"warning: {message}", err=True)


def _explain(error: Exception) -> int:
    """Say an expected error as its message; anything else is a fault of ours and keeps its traceback."""
    from homelab_pipelines.backup.errors import ChoiceFailed
    from homelab_pipelines.inventory.problems import ActionableError, InventoryInvalid
    from homelab_pipelines.inventory.secrets import SecretError
    from homelab_pipelines.local_deployment import DeploymentFailed

    if isinstance(error, InventoryInvalid):
        click.echo(str(error), err=True)
        _print_error("the inventory has mistakes", "homelab check", "reading the inventory", error.problems)
        return 2
    if isinstance(error, ActionableError):
        click.echo(str(error), err=True)
        problems = error.problems if isinstance(error, ChoiceFailed) else ()
        _print_error(error.why, error.next_step, error.what, problems)
        return 1
    why, _, next_step = str(error).partition("\n  next: ")
    if isinstance(error, (SecretError, DeploymentFailed, OSError)):
        click.echo(str(error), err=True)
        _print_error(why, next_step)
        return 1
    _print_error(f"{type(error).__name__}: {why}")
    raise error


def _print_error(why: str, next_step: str = "", what: str = "", problems: Sequence[Any] = ()) -> None:
    """With --json, which even a call that click refused may have, the document that a script waits for."""
    words = sys.argv[1:]
    options = words[: words.index("--")] if "--" in words else words
    if "--json" in options:
        from homelab_pipelines.commands.output import print_json_error

        print_json_error(what or "running this command", why, next_step, problems)


if __name__ == "__main__":
    main()
