"""The loss report of a conversion: every value of the Compose model with its place and fate, as JSON and as Markdown.

No value of the model stands in it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path as FilePath
from typing import Any

from homelab_pipelines.migration.convert import Conversion
from homelab_pipelines.migration.kompose import VERSION
from homelab_pipelines.migration.ledger import FATES, dotted
from homelab_pipelines.migration.stack import Place


def report(conversion: Conversion) -> dict[str, Any]:
    """The loss report as plain data: summary, blockers, requirements, copies, and one entry for each leaf."""
    folder = conversion.stack.folder
    return {
        "stack": conversion.stack.name,
        "namespace": conversion.namespace,
        "status": status(conversion),
        "kompose": {
            "version": conversion.kompose.version,
            "withheld": list(conversion.kompose.withheld),
            "messages": len(conversion.kompose.warnings),
        },
        "leaves": conversion.ledger.counts(),
        "objects": dict(sorted(Counter(each["kind"] for each in conversion.objects).items())),
        "secrets": {name: sorted(keys) for name, keys in sorted(conversion.secrets.items())},
        "blockers": blockers(conversion),
        "requirements": list(conversion.requirements),
        "copies": [
            {"from": each.source, "claim": each.claim, "services": list(each.services)} for each in conversion.copies
        ],
        "accounts": [
            {
                "path": dotted(account.path),
                **_place(account.place, folder),
                "fate": account.entry.fate if account.entry else "unaccounted",
                "note": account.entry.note if account.entry else "",
            }
            for account in conversion.ledger.accounts()
        ],
    }


def status(conversion: Conversion) -> str:
    """`blocked` where a person must decide something, else `converted`."""
    return "blocked" if conversion.blockers else "converted"


def blockers(conversion: Conversion) -> list[dict[str, Any]]:
    """What a person must decide, with file (from the stack's folder), line and path."""
    folder = conversion.stack.folder
    return [
        {**_place(place, folder), "path": dotted(path), "message": f"{dotted(path)}: {decision}"}
        for path, place, decision in conversion.blockers
    ]


def markdown(conversion: Conversion) -> str:
    """The loss report for people."""
    found = report(conversion)
    counts = found["leaves"]
    lines = [
        f"# {found['stack']}: from Compose to Kubernetes",
        "",
        f"Status: **{found['status']}**. {len(conversion.objects)} objects in the namespace `{found['namespace']}`, "
        f"{len(found['secrets'])} Secrets. Kompose {found['kompose']['version']} made the first conversion"
        + ("." if found["kompose"]["version"] == VERSION else f" (this version of homelab_pipelines knows {VERSION})."),
        "",
        "| values | " + " | ".join(counts) + " |",
        "|---|" + "---:|" * len(counts),
        "| of the Compose model | " + " | ".join(str(count) for count in counts.values()) + " |",
        "",
    ]
    lines += _section(
        "What you must decide", [f"{each['file']}:{each['line']}: {each['message']}" for each in found["blockers"]]
    )
    lines += _section("What the cluster must have first", found["requirements"])
    copies = [
        f"{each['from']} into the claim `{each['claim']}` (of {', '.join(each['services'])})"
        for each in found["copies"]
    ]
    lines += _section("Data to copy before the stack starts", copies)
    lines += _section("What Kompose was not given", found["kompose"]["withheld"])
    for fate in reversed(FATES):
        chosen = [each for each in found["accounts"] if each["fate"] == fate]
        if chosen:
            lines += [f"## {fate.capitalize()} ({len(chosen)})", "", "| where | value | |", "|---|---|---|"]
            lines += [
                f"| {each['file']}:{each['line']} | `{_cell(each['path'])}` | {_cell(each['note'])} |"
                for each in chosen
            ]
            lines.append("")
    return "\n".join(lines)


def _section(title: str, entries: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {entry}" for entry in entries), ""] if entries else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _place(place: Place, folder: FilePath) -> dict[str, Any]:
    """A place with the file relative to the stack's folder, so that the report is the same wherever that lies."""
    file = FilePath(place.file).absolute()
    shown = file.relative_to(folder).as_posix() if file.is_relative_to(folder) else place.file
    return {"file": shown, "line": place.line}
