"""What all assets share: groups, kinds, pools and names."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_signatures: dict[CodeType, inspect.Signature] = {}

GROUP = "stage_1_foundation"


def op_name(kind: str, instance: str) -> str:
    """The name of an asset's step, as the run's page and alerts show it, unique as `kind` and `instance` together are.

    Dagster allows letters, digits and underscores in one; a name with anything else in it ends in a part of its digest.
    """
    plain = re.sub("[^A-Za-z0-9_]", "_", instance)
    digest = hashlib.sha256(instance.encode()).hexdigest()[:6]
    return f"{kind}__{plain}" if plain == instance else f"{kind}__{plain}_{digest}"


def pool(server: str) -> str:
    """The pool that keeps a server from being dumped twice at once (limit 1: deploy/local/dagster.yaml)."""
    return op_name("postgres", server)


def asset_kinds(*kinds: str) -> set[str]:
    """Dagster shows at most three."""
    return set(kinds[:3])


def inspected_once(function: F) -> F:
    """Decorates, below Dagster's own decorator, a function that is made anew for each instance of an asset.

    Dagster asks each of them for its signature and type hints some twenty times; with a thousand databases that is a
    fifth of the time to load the code location. All that come from the same code have the same signature.
    """
    code = function.__code__
    if code not in _signatures:
        _signatures[code] = inspect.signature(function)
    function.__signature__ = _signatures[code]  # type: ignore[attr-defined]
    return function
