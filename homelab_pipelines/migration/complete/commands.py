"""What a container runs. Accounts for `command`, `entrypoint`, `working_dir`, `tty`, `stdin_open`.

Kompose rewrites each `$` of a command into `$(…)`. Here `$` stays what Compose makes of it, and is escaped only where
Kubernetes would expand it (kubernetes.io/docs/reference/…/container: `$$(VAR)` is `$(VAR)`).
"""

from __future__ import annotations

import re
from typing import Any

from homelab_pipelines.inventory.problems import Path
from homelab_pipelines.migration.draft import Draft
from homelab_pipelines.migration.secret_words import secret_arguments
from homelab_pipelines.migration.values import literal

_FIELDS = {"entrypoint": "command", "command": "args"}


def apply(draft: Draft) -> None:
    """Set command, args, workingDir, tty and stdin. Words that hold a secret come from the service's Secret."""
    for key, field in _FIELDS.items():
        for name, value, path in draft.having(key):
            _words(draft, name, value, path, field)
    for key, field in (("working_dir", "workingDir"), ("tty", "tty"), ("stdin_open", "stdin")):
        for name, value, path in draft.having(key):
            draft.containers[name][field] = literal(value) if key == "working_dir" else bool(value)
            draft.ledger.carried(path, draft.to_container(name, field))


def escaped(text: str) -> str:
    """A text that Kubernetes leaves as it is: expansion begins at `$(`, and `$$` is a `$`."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def _words(draft: Draft, name: str, value: Any, path: Path, field: str) -> None:
    if value is None:
        draft.ledger.carried(path, "nothing is set: the image's own")
        return
    words = [literal(word) for word in value]
    if not words:
        if field == "command":
            decision = "an empty entrypoint takes away the image's: write the program it should run as entrypoint"
            draft.ledger.blocked(path, decision)
        else:
            draft.ledger.carried(path, "nothing is set: the image's own")
        return
    secret = secret_arguments(words) | {index for index, word in enumerate(words) if draft.holds_secret(word)}
    out = []
    for index, word in enumerate(words):
        if index in secret:
            variable = f"{field.upper()}_{index}"
            secret_name = f"{draft.containers[name]['name']}-arguments"
            draft.secrets.setdefault(secret_name, {})[variable] = word.encode()
            source = {"secretKeyRef": {"name": secret_name, "key": variable}}
            draft.containers[name].setdefault("env", []).append({"name": variable, "valueFrom": source})
            out.append(f"$({variable})")
            draft.ledger.carried((*path, index), f"Secret/{secret_name}: {variable}, and $({variable}) in {field}")
        else:
            out.append(escaped(word))
    draft.containers[name][field] = out
    draft.ledger.carried(path, draft.to_container(name, field))
