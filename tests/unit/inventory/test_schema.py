"""The JSON Schema for editors and the reference made of it agree with the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from homelab_pipelines.inventory.document import read_document
from homelab_pipelines.inventory.reference import reference_markdown
from homelab_pipelines.inventory.schema import json_schema
from homelab_pipelines.inventory.template import commented_template
from tests.unit.inventory.test_template import switched_on

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
INVALID = Path(__file__).parent / "invalid"


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$schema"]


@pytest.mark.parametrize("text", [commented_template(), switched_on(commented_template())], ids=["plain", "full"])
def test_schema_accepts_the_template(text: str) -> None:
    VALIDATOR.validate(read_document(text).data)


@pytest.mark.parametrize(
    "case",
    ["at_key_misspelt", "at_key_of_another_kind", "at_has_two_kinds", "at_is_text", "boolean_of_yaml_1_1",
     "compression_level_too_high", "duration_without_unit", "homelab_missing", "homelab_name_with_spaces",
     "kind_unknown", "list_expected", "many_at_once", "name_with_capitals", "number_out_of_range",
     "owner_without_team", "rate_without_second", "s3_without_keys", "secret_key_as_recipient", "secret_literal",
     "secret_reference_misspelt", "size_in_bits", "top_level_list", "unknown_section"],
)  # fmt: skip
def test_schema_refuses_what_the_models_refuse(case: str) -> None:
    assert not VALIDATOR.is_valid(read_document((INVALID / f"{case}.yaml").read_text()).data)


def _fields() -> list[tuple[str, str, dict[str, Any]]]:
    schema = json_schema()
    models = {"homelab.yaml": schema, **schema["$defs"]}
    return [(name, key, part) for name, model in models.items() for key, part in model["properties"].items()]


def test_every_key_has_a_description() -> None:
    assert [(name, key) for name, key, part in _fields() if not part.get("description")] == []


def test_defaults_are_valid_as_they_are_written() -> None:
    definitions, checked = json_schema()["$defs"], 0
    for _, _, part in _fields():
        if part.get("default") is not None:
            VALIDATOR.evolve(schema={"$defs": definitions, **part}).validate(part["default"])
            checked += 1
    assert checked > 20


def test_reference_has_a_row_for_every_key() -> None:
    text = reference_markdown()
    assert [(name, key) for name, key, _ in _fields() if f"| `{key}` |" not in text] == []
    assert "| `age` | duration | `26h` |" in text
    assert "| `content_hash_up_to` | size | `2GiB` |" in text
    assert "| `kind` | `postgres` | required |" in text


def test_reference_links_lead_to_tables() -> None:
    text = reference_markdown()
    linked = {line.partition("](#")[2].partition(")")[0] for line in text.split("[") if "](#" in line}
    tables = {line.removeprefix("## ").lower() for line in text.splitlines() if line.startswith("## ")}
    assert linked <= tables
    assert linked
