"""The file that `homelab init` writes is valid, as it is and with every key switched on, and leaves no key out."""

from __future__ import annotations

import re

from homelab_pipelines.inventory.schema import json_schema
from homelab_pipelines.inventory.template import commented_template
from tests.unit.inventory.conftest import Checker


def switched_on(template: str) -> str:
    """The template without the # before keys; `# text` stays a comment."""
    return re.sub(r"(?m)^( *)#(?! \S|\s*$)", r"\1", template)


def test_template_passes_check(problems_of: Checker) -> None:
    assert problems_of(commented_template()) == []


def test_template_with_every_key_switched_on_passes_check(problems_of: Checker) -> None:
    full = switched_on(commented_template())
    assert full.count("\n#alerts") == 0
    assert problems_of(full) == []


def test_template_mentions_every_key_of_the_models() -> None:
    schema = json_schema()
    keys = {key for part in (schema, *schema["$defs"].values()) for key in part["properties"]}
    missing = {key for key in keys if not re.search(rf"\b{key}:", commented_template())}
    assert missing == set()
    assert len(keys) > 50


def test_template_lines_fit_a_screen() -> None:
    assert all(len(line) <= 120 for line in commented_template().splitlines())
