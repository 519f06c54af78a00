"""The JSON Schema of homelab.yaml, for editors (draft 2020-12), and how to find the part of it that a path leads to."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from homelab_pipelines.inventory.model import Homelab
from homelab_pipelines.inventory.units import format_duration, format_size

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generate(GenerateJsonSchema):
    """Writes defaults as a person would."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, BaseModel):
            # An empty mapping stands for the defaults of its keys, which are written there.
            return {}
        return format_duration(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def json_schema() -> dict[str, Any]:
    """The schema of the whole file, with the forms a person may write (`32GiB`, `26h`) and each key's description."""
    schema: dict[str, Any] = {"$schema": DIALECT, **Homelab.model_json_schema(schema_generator=_Generate)}
    schema["title"] = "homelab.yaml"
    _tidy(schema)
    return schema


def _tidy(part: Any) -> None:
    """Refuse names that do not fit the pattern of names, write sizes with units, drop titles that repeat their key."""
    if isinstance(part, list):
        for item in part:
            _tidy(item)
    if not isinstance(part, dict):
        return
    if "patternProperties" in part:
        part["additionalProperties"] = False
    if part.get("title") == "size" and isinstance(part.get("default"), int):
        part["default"] = format_size(part["default"])
    for key, value in part.items():
        if key == "properties":
            for name, field in value.items():
                if field.get("title") == name.replace("_", " ").title():
                    del field["title"]
        if key != "default":
            _tidy(value)


@functools.cache
def _schema() -> dict[str, Any]:
    return json_schema()


def resolve(part: dict[str, Any]) -> dict[str, Any]:
    """Follow references, and out of "this or null" take this."""
    while True:
        choices = [choice for choice in part.get("anyOf", ()) if choice.get("type") != "null"]
        if "$ref" in part:
            part = _schema()["$defs"][part["$ref"].rpartition("/")[2]]
        elif len(choices) == 1:
            part = choices[0]
        else:
            return part


def part_at(location: tuple[str | int, ...]) -> dict[str, Any] | None:
    """The schema of what `location` leads to, or None; `<Model>` in it chooses one kind out of several."""
    part = _schema()
    for step in location:
        part = resolve(part)
        if isinstance(step, int):
            found = part.get("items")
        elif step.startswith("<"):
            found = _schema()["$defs"].get(step.strip("<>"))
        else:
            patterns = list(part.get("patternProperties", {}).values())
            rest = patterns[0] if patterns else part.get("additionalProperties") or None
            found = part.get("properties", {}).get(step, rest)
        if not isinstance(found, dict):
            return None
        part = found
    return part
