"""`Ledger`: what became of every value of a Compose model, so that none is lost in silence.

Each leaf of the model ends in one class: carried, replaced, dropped or blocked. A leaf in none of them is unaccounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.stack import Place, Stack

Fate = Literal["carried", "replaced", "dropped", "blocked"]
FATES: tuple[Fate, ...] = get_args(Fate)


@dataclass(frozen=True)
class Entry:
    """The fate of a path and of all below it; `note` says where to, by what, why, or what a person must decide."""

    fate: Fate
    note: str


@dataclass(frozen=True)
class Account:
    """One leaf of the model with its place and fate; `entry` is None where nothing accounts for it."""

    path: Path
    place: Place
    entry: Entry | None


class Ledger:
    """Fates by path. A path stands for all below it; of several, the longest counts, but a blocked one before all.

    Notes never hold a value of the model, which may be a secret. Recording two fates for one path raises ValueError,
    except that `blocked` takes the place of another, and stays.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._entries: dict[Path, Entry] = {}

    def carried(self, path: Path, to: str) -> None:
        """The value stands, with its meaning, in `to`."""
        self._record(path, Entry("carried", to))

    def replaced(self, path: Path, by: str) -> None:
        """What the value did is done by something else."""
        self._record(path, Entry("replaced", by))

    def dropped(self, path: Path, reason: str) -> None:
        """The value has no effect any more."""
        self._record(path, Entry("dropped", reason))

    def blocked(self, path: Path, decision: str) -> None:
        """The stack would break, and a person must decide."""
        self._record(path, Entry("blocked", decision))

    def fate(self, path: Path) -> Entry | None:
        """What is recorded for `path`, itself or through what it stands in."""
        above = [self._entries[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self._entries]
        return next((entry for entry in above if entry.fate == "blocked"), above[0] if above else None)

    def accounts(self) -> Iterator[Account]:
        """Every leaf of the model, in its order, with its place and fate."""
        for path, _ in self._stack.leaves():
            yield Account(path, self._stack.place(path), self.fate(path))

    def unaccounted(self) -> list[Account]:
        """The leaves that nothing accounts for."""
        return [account for account in self.accounts() if account.entry is None]

    def counts(self) -> dict[str, int]:
        """How many leaves there are, and how many in each class."""
        found = Counter(account.entry.fate if account.entry else "unaccounted" for account in self.accounts())
        return {"total": found.total()} | {name: found[name] for name in (*FATES, "unaccounted")}

    def blockers(self) -> list[tuple[Path, Place, str]]:
        """What a person must decide: path, place and decision, in the order of the files."""
        found = [
            (path, self._stack.place(path), entry.note)
            for path, entry in self._entries.items()
            if entry.fate == "blocked"
        ]
        return sorted(found, key=lambda each: (each[1].file, each[1].line, [str(part) for part in each[0]]))

    def _record(self, path: Path, entry: Entry) -> None:
        former = self._entries.get(path)
        if former is None or (entry.fate == "blocked" and former.fate != "blocked"):
            self._entries[path] = entry
        elif former.fate == "blocked" and entry.fate == "blocked":
            if entry.note not in former.note:
                self._entries[path] = Entry("blocked", f"{former.note}; {entry.note}")
        elif former.fate != "blocked" and former != entry:
            raise ValueError(f"{dotted(path)} is already {former.fate}, and was to be {entry.fate}")


def dotted(path: Path) -> str:
    """A path for people: `services.web.ports[0].target`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
