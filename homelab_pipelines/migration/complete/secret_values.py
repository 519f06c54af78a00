"""The secrets of a stack's environment, so that a copy of one in another place is found. Accounts for nothing."""

from __future__ import annotations

import re

from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.secret_words import is_secret
from homelab_pipelines.migration.values import literal

_LEAST = 8


def apply(draft: Draft) -> None:
    """Collect them. Words that stand elsewhere as names, such as a password that is the user's name, are left out."""
    values = [
        (name, literal(value))
        for _, environment, _ in draft.having("environment")
        for name, value in environment.items()
        if value is not None
    ]
    plain = {value for name, value in values if not is_secret(name, value)} | set(
        draft.stack.model.get("services") or {}
    )
    found = {value for name, value in values if is_secret(name, value) and value not in plain}
    draft.secret_values = frozenset(value for value in found if distinctive(value))


def distinctive(value: str) -> bool:
    """Whether a value is long and mixed enough that finding it elsewhere is no accident."""
    mixed = bool(re.search("[0-9]", value)) and bool(re.search("[A-Za-z]", value))
    return len(value) >= _LEAST and (mixed or len(value) >= 2 * _LEAST)
