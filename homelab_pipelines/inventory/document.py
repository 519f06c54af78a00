"""YAML with positions: text in, plain Python data out, and where in the text each key and value stands.

Scalars follow the core schema of YAML 1.2 (yaml.org/spec/1.2.2, section 10.3.2): `yes`, `on` and 22:22 are text, 0777
is 777. Merge keys (<<) work; of tags only those that a `Dialect` names. No message repeats text of the file, which may
be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from homelab_pipelines.inventory.problems import Path, risky

_NULL = re.compile("~|null|Null|NULL|")
_BOOL = re.compile("true|True|TRUE|false|False|FALSE")
_INT = re.compile("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MOST_DIGITS = 300

# PyYAML's words for a mistake → ours, and how to mend it. The first that is contained wins.
_SYNTAX = (
    ("'\\t' that cannot start", "a tab stands where YAML wants spaces", "indent with spaces, two for each level"),
    ("while scanning an alias", "a text that starts with * must be quoted", 'write "*"; without quotes * is an alias'),
    ("while scanning an anchor", "a text that starts with & must be quoted", "put it into double quotes"),
    ("undefined alias", "this alias (*name) has no anchor (&name) before it", 'a text that starts with *: write "*…"'),
    ("duplicate anchor", "this anchor (&name) is there twice", "give one of them another name"),
    ("'%' that cannot start", "a text that starts with % must be quoted", "put it into double quotes"),
    ("'@' that cannot start", "a text that starts with @ must be quoted", "put it into double quotes"),
    ("'`' that cannot start", "a text that starts with ` must be quoted", "put it into double quotes"),
    ("mapping values are not allowed", "a second colon in one line, or a line that is indented too far",
     "quote a text with ': ' in it; every key needs its colon; keys of one mapping start in the same column"),
    ("could not find expected ':'", "this line is no 'key: value'", "write a colon and a space after the key"),
    ("end of stream", "a quote is never closed", "add the closing quote"),
    ("unexpected end", "a quote is never closed", "add the closing quote"),
    ("unknown escape character", "an unknown escape in a text in double quotes", "use single quotes, or write \\\\"),
    ("expected ',' or", "a { or [ is never closed, or a comma is missing", "separate entries with a comma"),
    ("sequence entries are not allowed", "a list cannot start here", "write its first - on a line of its own"),
    ("scanning a block scalar", "a text stands right behind | or >", "begin the text on the next line, indented"),
    ("expected the node content", "a value is missing, or a bracket or comma is too many",
     "write a value, or remove it"),
    ("<document start>", "this line is not indented like the lines of its mapping or list",
     "keys of one mapping start in the same column"),
    ("expected <block end>", "this line is not indented like the lines of its mapping or list",
     "keys of one mapping start in the same column"),
    ("single document", "a second document starts here (---)", "one file holds one {whole}: remove the ---"),
    ("tag", "tags (!name) are not known here", "put a text that starts with ! into double quotes"),
)  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """What differs between the kinds of files that are read here.

    `whole` says in messages what a file holds. `most_nodes` is a guard against aliases that multiply ("billion
    laughs"): a homelab of a hundred services has some thousand nodes. `tags` are known, and noted in `Document.tags`.
    `anchors_again`: an anchor may be given anew, as YAML allows, and aliases mean the last one before them.
    """

    whole: str = "homelab"
    most_nodes: int = 20_000
    tags: frozenset[str] = frozenset()
    anchors_again: bool = False


@dataclass(frozen=True)
class Place:
    """Line and column of a node, from 1; of its key where it has one, and of its value."""

    key: tuple[int, int]
    value: tuple[int, int]


@dataclass(frozen=True)
class Fault:
    """A mistake in the YAML itself."""

    line: int
    column: int
    message: str
    hint: str = ""


@dataclass
class Document:
    """The data, the place of every path in it, and the mistakes that did not keep it from being read.

    `plain` are the scalars without quotes that are no text, as they are written: `0440`, `1.10`. `tags` are those of
    the dialect. `repeated` are the lines that repeat an entry, key and value, and can go without a change of meaning.
    """

    data: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    plain: dict[Path, str] = field(default_factory=dict)
    tags: dict[Path, str] = field(default_factory=dict)
    repeated: list[int] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Where `path` stands, or else its nearest ancestor."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place((1, 1), (1, 1)))


class NotYaml(Exception):
    """The text is no YAML; `fault` says where and why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


HOMELAB = Dialect()


class _Composer(yaml.SafeLoader):
    """SafeLoader as far as the node tree, without YAML 1.1's rules for plain scalars."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the name and form are PyYAML's
    anchors_again = False

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.anchors_again and not self.check_event(yaml.AliasEvent):
            # PyYAML refuses an anchor that it knows already.
            self.anchors.pop(self.peek_event().anchor, None)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


_Composer.add_implicit_resolver("!plain", re.compile("", re.DOTALL), None)


def read_document(text: str, dialect: Dialect = HOMELAB) -> Document:
    """Parse one YAML document. Raises NotYaml where it cannot be read at all."""
    try:
        node = _compose(text, dialect)
        reader = _Reader(dialect)
        if node is not None:
            reader.document.data = reader.read(node, (), _place(node), ())
    except RecursionError:
        raise NotYaml(
            Fault(1, 1, f"this file is nested too deep to be a {dialect.whole}", "look for a bracket too many: [ or {")
        ) from None
    return reader.document


def _compose(text: str, dialect: Dialect) -> yaml.Node | None:
    # The reader refuses control characters as soon as it is made.
    try:
        loader = _Composer(text)
        loader.anchors_again = dialect.anchors_again
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise NotYaml(Fault(*place, "a control character, which YAML does not allow", "remove it")) from None
    except yaml.MarkedYAMLError as error:
        raise NotYaml(_syntax_fault(error, dialect)) from None


def _syntax_fault(error: yaml.MarkedYAMLError, dialect: Dialect) -> Fault:
    said = f"{error.context or ''} {error.problem or ''}"
    mark = error.problem_mark or error.context_mark
    message, hint = next(
        ((message, hint) for words, message, hint in _SYNTAX if words in said),
        ("this is no YAML", "look for a missing quote, colon or bracket here or just above"),
    )
    hint = hint.replace("{whole}", dialect.whole)
    unclosed = ("never closed" in message or "no 'key: value'" in message) and error.context_mark
    mark = error.context_mark if unclosed else mark
    return Fault(mark.line + 1, mark.column + 1, message, hint) if mark else Fault(1, 1, message, hint)


def _start(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _place(node: yaml.Node) -> Place:
    return Place(_start(node), _start(node))


class _Reader:
    """Turns nodes into data and notes their places; `above` are the nodes a node stands in, to find endless aliases."""

    def __init__(self, dialect: Dialect) -> None:
        self.document = Document()
        self.dialect = dialect
        self.nodes = 0

    def read(self, node: yaml.Node, path: Path, place: Place, above: tuple[int, ...]) -> Any:
        self.nodes += 1
        if self.nodes > self.dialect.most_nodes:
            message = f"aliases make this file larger than {self.dialect.most_nodes} entries"
            raise NotYaml(Fault(*place.value, message, "write the entries out, without aliases (*name) of aliases"))
        if id(node) in above:
            raise NotYaml(Fault(*place.value, "this alias stands inside its own anchor", "write the entry out"))
        self.document.places[path] = place
        above = (*above, id(node))
        if isinstance(node, yaml.MappingNode):
            self._note_tag(node, "tag:yaml.org,2002:map", path)
            pairs = self._pairs(node, above)
            return {
                key: self.read(value, (*path, key), Place(_start(key_node), _start(value)), above)
                for key, (key_node, value) in pairs.items()
            }
        if isinstance(node, yaml.SequenceNode):
            self._note_tag(node, "tag:yaml.org,2002:seq", path)
            return [self.read(item, (*path, index), _place(item), above) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _pairs(self, node: yaml.MappingNode, above: tuple[int, ...]) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The entries of a mapping by key, with those it merges (<<) behind its own."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(key_node, "a key must be a text", 'quote what starts with { or [ or *: "{…}"')
                continue
            key = key_node.value
            if key in own or (key == "<<" and merged):
                first = own.get(key)
                if first:
                    self._fault(key_node, _twice(key, first, value), "remove one of the two")
                else:
                    self._fault(key_node, "key '<<' is here twice", "merge them in one: <<: [*first, *second]")
                one_line = not node.flow_style and key_node.start_mark.line == value.end_mark.line
                if first and one_line and _same_scalar(first[1], value):
                    self.document.repeated.append(key_node.start_mark.line + 1)
            elif key == "<<" and key_node.style is None:
                self._merge(merged, value, above)
            else:
                own[key] = (key_node, value)
        return own | {key: pair for key, pair in merged.items() if key not in own}

    def _merge(self, merged: dict[str, tuple[yaml.Node, yaml.Node]], value: yaml.Node, above: tuple[int, ...]) -> None:
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                self._fault(source, "<< merges mappings only", "write <<: *name, where &name is a mapping")
            elif id(source) in above:
                raise NotYaml(Fault(*_start(source), "this alias stands inside its own anchor", "write the entry out"))
            else:
                for key, pair in self._pairs(source, (*above, id(source))).items():
                    merged.setdefault(key, pair)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        if node.tag != "!plain":
            self._note_tag(node, "tag:yaml.org,2002:str", path)
            return node.value
        data = _plain(node.value)
        if not isinstance(data, str):
            self.document.plain[path] = node.value
        return data

    def _note_tag(self, node: yaml.Node, usual: str, path: Path) -> None:
        if node.tag in self.dialect.tags:
            self.document.tags[path] = node.tag
        elif node.tag != usual:
            self._fault(node, "tags (!name) are not known here", "put a text that starts with ! into double quotes")

    def _fault(self, node: yaml.Node, message: str, hint: str) -> None:
        fault = Fault(*_start(node), message, hint)
        if fault not in self.document.faults:
            self.document.faults.append(fault)


def _plain(text: str) -> Any:
    """A scalar without quotes, by the core schema."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if len(text) <= _MOST_DIGITS:
        if _INT.fullmatch(text):
            return int(text) if text[:2] not in ("0o", "0x") else int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _same_scalar(one: yaml.Node, other: yaml.Node) -> bool:
    scalars = isinstance(one, yaml.ScalarNode) and isinstance(other, yaml.ScalarNode)
    return scalars and (one.tag, one.value) == (other.tag, other.value)


def _twice(key: str, first: tuple[yaml.Node, yaml.Node], value: yaml.Node) -> str:
    line, column = _start(first[0])
    # A key without a value may be a secret in braces, {hunter2, hunter2}: only what has values is named.
    named = f"key '{key}'" if first[1].value and value.value and not risky(key) else "this key"
    return f"{named} is here twice; the first is in line {line}, column {column}"
