"""What a foreign library (pyrage) leaves of an exception that its Python readers and writers raised: only the text."""

from __future__ import annotations

import re

_INTERRUPT = re.compile(r"\b(SystemExit|\w*Interrupt\w*)\b")


def reraise_interrupt(error: Exception) -> None:
    """Raise KeyboardInterrupt when `error` has the text of one, of SystemExit, or of Dagster's own interrupt.

    A signal (Ctrl-C, SIGTERM) that comes inside the library is raised on the way into the next reader or writer, where
    no `try` of ours can keep it. Taken for an error of the library, it would make a good backup a damaged one.
    """
    if _INTERRUPT.search(str(error)):
        raise KeyboardInterrupt(str(error)) from error
