"""Pydantic's errors in the words of this project: path, message, hint. Values are not repeated: they may be secret."""

from __future__ import annotations

from typing import Any, Literal

from pydantic_core import ErrorDetails

from homelab_pipelines.inventory.problems import Finding, Path, did_you_mean, noun, one_of, risky
from homelab_pipelines.inventory.schema import part_at, resolve

_EXPECTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
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
    part = part_at(location) or {}
    if kind in _EXPECTED:
        return f"{_EXPECTED[kind]}, here stands {noun(value)}", _type_hint(kind, value, part)
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {context[key]}", _range(part)
    if kind == "literal_error":
        choices = _choices(part)
        near = did_you_mean(value, choices)
        if len(choices) == 1:
            return f"must be {choices[0]}", near or f"write {choices[0]}; there is no other yet"
        return f"must be {one_of(choices)}", near or f"choose one of them; it says {_described(part)}"
    if kind == "string_too_short":
        return "must not be empty", "write a text, or remove the key"
    return said, f"write {_described(part)}"


def _type_hint(kind: str, value: Any, part: dict[str, Any]) -> str:
    if kind == "string_type":
        is_plain = isinstance(value, bool | int | float)
        return "put it into quotes to make it text" if is_plain else f"write one text: {_described(part)}"
    if kind in ("int_type", "float_type"):
        decimal = isinstance(value, str) and value.isdecimal()
        return "write it without quotes" if decimal else f"{_range(part)}: {_described(part)}"
    if kind == "bool_type":
        is_true = isinstance(value, str) and value.lower() in ("yes", "on", "true")
        is_false = isinstance(value, str) and value.lower() in ("no", "off", "false")
        return "write true" if is_true else "write false" if is_false else "write true or false, without quotes"
    if kind in ("tuple_type", "list_type"):
        return "write it in brackets: [ ]"
    return _mapping_hint(part)


def _mapping_hint(part: dict[str, Any]) -> str:
    """Which keys a mapping has; where they are names that a person chooses, how an entry looks."""
    part = resolve(part)
    if known := list(part.get("properties", ())):
        return f"write keys below it; known here: {', '.join(known)}"
    entries = [*part.get("patternProperties", {}).values(), part.get("additionalProperties")]
    entry = next((resolve(each) for each in entries if isinstance(each, dict)), {})
    kinds = [resolve(each) for each in (*entry.get("oneOf", ()), *entry.get("anyOf", ()))] or [entry]
    examples = [", ".join(f"{key}: …" for key in kind.get("required", ())) for kind in kinds]
    shown = " or ".join(f"main: {{{example}}}" if example else "name: text" for example in examples)
    return f"write each entry below it with a name of its own: {shown}"


def _range(part: dict[str, Any]) -> str:
    part = resolve(part)
    least, most = part.get("minimum"), part.get("maximum")
    number = "a number" if part.get("type") == "number" else "a whole number"
    if least is not None and most is not None:
        return f"write {number} from {least} to {most}"
    if least is not None:
        return f"write {number}, {least} or more"
    return f"write {number}"


def _described(part: dict[str, Any]) -> str:
    """What a key is for, in the words of its model."""
    return str(part.get("description") or resolve(part).get("description", "a value that fits"))


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
    return f"add {location[-1]}: <{_described(part)}>"


def _choices(part: dict[str, Any]) -> list[str]:
    part = resolve(part)
    constant = [part["const"]] if "const" in part else []
    return [str(choice) for choice in part.get("enum", constant)]
