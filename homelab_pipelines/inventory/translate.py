"""Pydantic's errors in the words of this project: path, message, hint. Values are not repeated: they may be secret."""

from __future__ import annotations

from typing import Any, Literal

from pydantic_core import ErrorDetails

from homelab_pipelines.inventory.problems import Finding, Path, did_you_mean, noun, one_of, risky
from homelab_pipelines.inventory.schema import part_at, resolve

_EXPECTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping (key: value)",
    "model_type": "must be a mapping (key: value)",
    "model_attributes_type": "must be a mapping (key: value)",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("more than", "gt"),
    "less_than": ("less than", "lt"),
}


def data_path(location: tuple[str | int, ...]) -> Path:
    """The path in the data: without the marks that say which kind a union took, or that a key is meant."""
    return tuple(step for step in location if isinstance(step, int) or not step.startswith(("<", "[")))


def label(path: Path) -> str:
    """The last key of a path, with indexes: `encrypt_to[0]`; `homelab.yaml` for the whole."""
    last = next((index for index in reversed(range(len(path))) if isinstance(path[index], str)), None)
    if last is None:
        return "homelab.yaml"
    if risky(str(path[last])):
        return "this entry"
    return f"{path[last]}{''.join(f'[{index}]' for index in path[last + 1 :])}"


def translate(error: ErrorDetails) -> Finding:
    """One error of pydantic as a finding; its path is that of the data."""
    location, kind, path = error["loc"], error["type"], data_path(error["loc"])
    is_key = bool(location) and location[-1] == "[key]"
    at: Literal["key", "value"] = "key" if is_key or kind == "extra_forbidden" else "value"
    if kind == "extra_forbidden":
        message, hint = _unknown_key(location, error["input"])
    elif kind == "missing":
        message, hint = f"{label(path)} is missing", _what_to_add(location)
        path = path[:-1]
    else:
        said, hint = _value_error(error)
        message = f"{label(path)}: {said}"
    return Finding(path, message, hint, about=(path,), at=at)


def _value_error(error: ErrorDetails) -> tuple[str, str]:
    kind, value, location = error["type"], error["input"], error["loc"]
    # Pydantic's own words hold no input; they serve for the kinds that have no words here.
    context, said = error.get("ctx", {}), error["msg"]
    if kind == "inventory":
        return context["message"], context["hint"]
    if value is None:
        return "has no value", "write one after the colon, or remove the key"
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}, here stands {noun(value)}", _type_hint(kind, value)
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {context[key]}", ""
    if kind == "literal_error":
        choices = _choices(part_at(location) or {})
        return f"must be {one_of(choices)}", did_you_mean(value, choices)
    if kind == "string_too_short":
        return "must not be empty", "write a text, or remove the key"
    return said, ""


def _type_hint(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "put it into quotes to make it text"
    if kind == "int_type" and isinstance(value, str) and value.isdecimal():
        return "write it without quotes"
    if kind == "bool_type" and isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "true", "false"):
        return f"write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}"
    if kind == "tuple_type" and isinstance(value, str | dict):
        return "write it in brackets: [ ]"
    return ""


def _unknown_key(location: Path, value: Any) -> tuple[str, str]:
    key = str(location[-1])
    if ":" in key:
        # {password:secret}: without the space the secret is part of the key, so only what stands before is named.
        return "a key must be followed by a colon and a space", f"write '{key.partition(':')[0]}: …'"
    known = list(resolve(part_at(location[:-1]) or {}).get("properties", ()))
    # {password hunter2} and {hunter2} are keys without a value: those are not named either.
    named = "unknown key" if value is None or risky(key) else f"unknown key '{key}'"
    return named, did_you_mean(key, known) or f"known here: {', '.join(known)}"


def _what_to_add(location: Path) -> str:
    part = part_at(location) or {}
    if choices := _choices(part):
        return f"add {location[-1]}: {one_of(choices)}"
    return f"add {location[-1]}: <{part.get('description') or resolve(part).get('description', 'a value')}>"


def _choices(part: dict[str, Any]) -> list[str]:
    part = resolve(part)
    constant = [part["const"]] if "const" in part else []
    return [str(choice) for choice in part.get("enum", constant)]
