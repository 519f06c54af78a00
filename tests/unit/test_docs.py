"""The documentation is true where that can be tested: generated pages, links, command lines, homelab.yaml snippets."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml

from homelab_pipelines.backup import manifest
from homelab_pipelines.cli import homelab
from homelab_pipelines.inventory.loader import check

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(homelab [a-z-]+[^`]*)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
# What makes a snippet a whole file: everything that is required and that the snippet does not show.
_MAIN = {"kind": "postgres", "at": {"host": "192.168.1.10"}}
_NAS = {"directory": "/mnt/nas/backups"}


def _named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _blocks(page: Path, *languages: str) -> list[str]:
    return [
        "\n".join(line.removeprefix(indent) for line in body.splitlines())
        for indent, language, body in _FENCE.findall(page.read_text())
        if language in languages
    ]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _command_lines(page: Path) -> list[str]:
    """Every call of `homelab` in a page's blocks of commands; no comments, redirections, generated usage lines."""
    lines = [line.strip() for block in _blocks(page, "") for line in block.splitlines()]
    calls = [re.split(r"  #| > ", line)[0].strip() for line in lines if line.startswith("homelab ")]
    return [call for call in calls if "[OPTIONS]" not in call]


def _mentions(page: Path) -> list[str]:
    """What running text quotes of `homelab`: a command, perhaps with options, not always a whole call."""
    return _INLINE.findall(_FENCE.sub("", page.read_text()))


def _parse(line: str) -> str:
    """The command's name of a call that fits the click tree; nothing is run. Raises click.UsageError."""
    context = homelab.make_context("homelab", shlex.split(line)[1:])
    # click keeps the command's name apart from its arguments (until version 9).
    name, command, rest = homelab.resolve_command(context, [*getattr(context, "_protected_args", []), *context.args])
    assert command is not None and name is not None
    command.make_context(name, rest, parent=context)
    return name


def _unknown(mention: str) -> list[str]:
    """The words of a mention that are no command and no option of it."""
    _, name, *words = mention.split()
    if (command := homelab.commands.get(name)) is None:
        return [name]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in words if word.startswith("-") and word not in known]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _completed(snippet: dict[str, Any]) -> dict[str, Any]:
    """A whole homelab.yaml around a snippet of one."""
    whole: dict[str, Any] = {"homelab": "home", **snippet}
    whole.setdefault("databases", {"main": _MAIN})
    backups = {"targets": {"nas": _NAS}, **whole.get("backups", {})}
    return {**whole, "backups": backups}


SNIPPETS = [
    pytest.param(block, id=f"{_named(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(_blocks(page, "yaml"), start=1)
]
CALLS = sorted({(line, _named(page)) for page in PAGES for line in _command_lines(page)})


def test_generated_reference_is_current() -> None:
    assert _generator().stale() == [], "next: python docs/generate.py"


def test_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = _generator()
    monkeypatch.setattr(generator, "REFERENCE", tmp_path)
    for name, text in generator.pages().items():
        (tmp_path / name).write_text(text)
    assert generator.stale() == []
    with (tmp_path / "commands.md").open("a") as page:
        page.write("a word by hand\n")
    assert generator.stale() == ["commands.md"]


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_internal_link_resolves(page: Path) -> None:
    dead = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_page_is_reachable_from_the_index() -> None:
    index = ROOT / "docs/index.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in _LINK.findall(index.read_text())}
    assert {_named(page) for page in ROOT.glob("docs/*/*.md")} <= {_named(page) for page in linked}


@pytest.mark.parametrize(("line", "page"), CALLS)
def test_command_line_parses(line: str, page: str) -> None:
    _parse(line)


@pytest.mark.parametrize(
    "line", ["homelab verfy", "homelab backups --form /mnt", "homelab restore", "homelab prune now"]
)
def test_command_line_with_a_mistake_is_refused(line: str) -> None:
    with pytest.raises(click.UsageError):
        _parse(line)


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_command_in_running_text_exists(page: Path) -> None:
    assert {mention: wrong for mention in _mentions(page) if (wrong := _unknown(mention))} == {}


@pytest.mark.parametrize("mention", ["homelab verfy", "homelab prune --dryrun", "homelab restore --form s3://bucket"])
def test_mention_with_a_mistake_is_noticed(mention: str) -> None:
    assert _unknown(mention) != []


def test_guides_show_every_command() -> None:
    mentioned = {mention.split()[1] for page in PAGES for mention in _mentions(page)}
    assert set(homelab.commands) <= mentioned | {_parse(line) for line, _ in CALLS}


def test_example_is_valid() -> None:
    assert [str(problem) for problem in check(ROOT / "examples/homelab.yaml")] == []


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_of_homelab_yaml_is_valid(snippet: str, tmp_path: Path) -> None:
    path = tmp_path / "homelab.yaml"
    path.write_text(yaml.safe_dump(_completed(yaml.safe_load(snippet)), allow_unicode=True))
    assert [str(problem) for problem in check(path)] == []


@pytest.mark.parametrize(
    "model",
    [
        manifest.Manifest,
        manifest.StoredObject,
        manifest.NotCarried,
        manifest.Evidence,
        manifest.TableEvidence,
        manifest.SequenceEvidence,
        manifest.LargeObjectEvidence,
        manifest.DatabaseProperties,
        manifest.Proof,
    ],
    ids=lambda model: model.__name__,
)
def test_manifest_reference_names_every_field(model: type[manifest.Manifest]) -> None:
    text = (ROOT / "docs/reference/manifest.md").read_text()
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    found = next(part for part in section if part.startswith(f"{model.__name__}\n"))
    assert re.findall(r"^\| `(\w+)` \|", found, re.MULTILINE) == list(model.model_fields)
