"""Writes the generated part of docs/reference from the code: homelab.yaml, its JSON Schema, and the commands.

`python docs/generate.py` writes; with `--check` it writes nothing and fails when a page is not what the code says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from homelab_pipelines.cli import homelab
from homelab_pipelines.inventory.reference import reference_markdown
from homelab_pipelines.inventory.schema import json_schema

REFERENCE = Path(__file__).resolve().parent / "reference"
_COMMANDS = """\
# Commands

Results go to standard output, everything else to standard error. With `--json` standard output is one JSON document.
Where there is no result (a wrong call, mistakes in homelab.yaml, an unknown name) it is

```
{"error": {"what": "…", "why": "…", "next": "…", "problems": []}}
```

with what failed, why, and what to do next; `problems` lists mistakes in homelab.yaml, each as an object with `file`,
`line`, `column`, `message` and `hint`. The same stands as text on standard error. `check --json` prints that list
alone, empty when all is well. What the exit statuses mean stands in [exit statuses](exit-statuses.md), the variables in
[environment variables](environment.md).
"""


def pages() -> dict[str, str]:
    """The generated files of docs/reference: name → text."""
    return {
        "homelab-yaml.md": reference_markdown(),
        "homelab.schema.json": json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n",
        "commands.md": commands_markdown(homelab),
    }


def commands_markdown(group: click.Group) -> str:
    """Every command of a group: its call, what it does, its arguments' names and its options."""
    top = click.Context(group, info_name="homelab", max_content_width=120)
    parts = [_COMMANDS, "Options of `homelab` itself stand before the command's name:\n", _options(top)]
    for name in group.list_commands(top):
        command = group.get_command(top, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, info_name=name, parent=top, max_content_width=120)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        parts.append(f"## homelab {name}\n\n```\n{usage}\n```\n\n{_plain(command.help or '')}\n")
        parts.append(_options(context))
    return "\n".join(part for part in parts if part)


def _options(context: click.Context) -> str:
    rows = []
    for parameter in context.command.get_params(context):
        record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            rows.append(f"| `{record[0].replace('|', chr(92) + '|')}` | {_plain(record[1])} |")
    return "\n".join(["| option | |", "|---|---|", *rows, ""]) if rows else ""


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "&#124;")


def stale() -> list[str]:
    """The names of generated files that are not what the code says now."""
    return [
        name
        for name, text in pages().items()
        if not (REFERENCE / name).exists() or (REFERENCE / name).read_text() != text
    ]


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail when a page is stale.")
def main(check: bool) -> None:
    """Write the generated reference, or check that it is current."""
    if check:
        if found := stale():
            raise click.ClickException(f"stale in docs/reference: {', '.join(found)}\n  next: python docs/generate.py")
        click.echo("docs/reference is current", err=True)
        return
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text)
    click.echo(f"wrote {', '.join(pages())} to docs/reference", err=True)


if __name__ == "__main__":
    sys.exit(main())
