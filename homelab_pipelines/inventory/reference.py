"""The reference of homelab.yaml as Markdown, rendered from the models' JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from homelab_pipelines.inventory.schema import json_schema

_UNITS = """\
Sizes are written `32GiB`, `20MB` or as a whole number of bytes; rates `20MB/s`; durations `26h`, `30m`, `7d`, `90s` or
`1h30m`; percentages `50` or `50%`. A secret is a reference, `{env: NAME}` or `{file: path}`. Unknown keys are refused.
"""


def reference_markdown() -> str:
    """Every key with its type, default and description: one table for each model, in the order of first mention."""
    schema = json_schema()
    definitions: dict[str, dict[str, Any]] = schema["$defs"]
    sections = [f"# homelab.yaml\n\n{_UNITS}", _table("The file", schema)]
    sections += [_table(name, definitions[name]) for name in _order(schema, definitions)]
    return "\n".join(sections)


def _order(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """The names of the models, breadth first from the top of the file."""
    waiting, seen = [schema], list[str]()
    while waiting:
        for name in _references(waiting.pop(0).get("properties", {})):
            if name not in seen:
                seen.append(name)
                waiting.append(definitions[name])
    return seen


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"].rpartition("/")[2]
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def _table(title: str, model: dict[str, Any]) -> str:
    lines = [f"## {title}", "", model.get("description", ""), "", "| key | type | default | |", "|---|---|---|---|"]
    required = model.get("required", ())
    for key, part in model["properties"].items():
        default = "required" if key in required else _default(part.get("default"))
        description = part.get("description", "")
        lines.append(f"| `{key}` | {_type(part)} | {default} | {description.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value in (None, {}, []):
        return ""
    # A section's default is the defaults of its keys, which have a table of their own.
    return (
        ""
        if isinstance(value, dict)
        else f"`{json.dumps(value, ensure_ascii=False)}`".replace('`"', "`").replace('"`', "`")
    )


def _type(part: dict[str, Any]) -> str:
    choices = [choice for choice in part.get("oneOf", part.get("anyOf", ())) if choice.get("type") != "null"]
    values = next(iter(part.get("patternProperties", {}).values()), part.get("additionalProperties"))
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in part or "const" in part:
        return ", ".join(f"`{choice}`" for choice in part.get("enum", [part.get("const")]))
    if part.get("title") in ("size", "rate", "duration", "percent"):
        return str(part["title"])
    if choices:
        # A default that is not null can be switched off by null.
        off = ["`null`"] if {"type": "null"} in part.get("anyOf", ()) and part.get("default") is not None else []
        return " or ".join([_type(choice) for choice in choices] + off)
    if part.get("type") == "array":
        return f"list of {_type(part['items'])}"
    if part.get("type") == "object":
        return f"name → {_type(values) if isinstance(values, dict) else 'anything'}"
    words = {"string": "text", "integer": "number", "number": "number", "boolean": "`true`, `false`"}
    return part.get("title", "").lower() or words[part["type"]]
