"""Names that Kubernetes accepts, made from those of Compose: valid, and no two the same."""

from __future__ import annotations

import hashlib
import re

# RFC 1035 label, the strictest form that Kubernetes asks for (Services); RFC 1123 label for everything else.
_LABEL = re.compile("[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_MOST = 63


def is_label(name: str) -> bool:
    """Whether a Service may have this name."""
    return bool(_LABEL.fullmatch(name))


def label(text: str, most: int = _MOST) -> str:
    """`text` as a valid label of at most `most` characters: lower case, hyphens, a letter first."""
    name = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
    name = name if name[0].isalpha() else f"x-{name}"
    if len(name) <= most:
        return name
    return f"{name[: most - 7].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


class Names:
    """Gives each text a name of its own among those of one kind; the same text gets the same name again."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._given: dict[str, str] = {}

    def name(self, text: str) -> str:
        """The name of `text`; where another text has it already, with a digest of this one behind."""
        if text not in self._given:
            name = label(text, self._most)
            if name in self._given.values():
                digest = hashlib.sha256(text.encode()).hexdigest()[:6]
                name = f"{label(text, self._most - 7)}-{digest}"
            self._given[text] = name
        return self._given[text]
